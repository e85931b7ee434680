import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file

from anony_pipeline.config.schema import Finetune
from anony_pipeline.errors import CheckpointError, ConfigError
from anony_pipeline.models import lora
from anony_pipeline.models.generator import load_generator
from anony_pipeline.structures.regions import Kind

CPU = {"device": torch.device("cpu"), "dtype": torch.float32}
SETTINGS = Finetune()
MIXES = Finetune(
    lora_rank=3,
    lora_alpha=6,
    style_mix={"FR": {"plate": 0.8, "style_FR": 0.5}, "DE": {"style_DE": 1.0}, "AT": {"style_DE": 0.25}},
)


def scramble(generator):
    """Give every adapter weights of its own, so that an adapter that is lost or swapped shows."""
    rng = torch.Generator().manual_seed(9)
    for parameter in lora.trainable_parameters(generator).values():
        parameter.data = torch.randn(parameter.shape, generator=rng) * 0.1


@pytest.mark.parametrize(
    ("entry", "prefix", "count"),
    [
        ("unet.mid_block", "mid_block.", 4 + 10 + 2),
        ("unet.up_blocks[-1]", "up_blocks.4.", 6),
        ("unet.up_blocks[4]", "up_blocks.4.", 6),
        ("unet.down_blocks[4].attentions[0]", "down_blocks.4.attentions.0.", 12),
        ("unet.down_blocks[-1].attentions[-1]", "down_blocks.4.attentions.0.", 12),
        ("unet.up_blocks[0].resnets[1].conv2", "up_blocks.0.resnets.1.conv2", 1),
    ],
)
def test_names_are_resolved_against_the_loaded_unet(demo_generator, entry, prefix, count):
    layers = lora.resolve_layers(demo_generator().unet, [entry])
    assert len(layers) == count
    assert all(name.startswith(prefix) for name in layers)


def test_sdxls_last_up_block_is_learned_by_its_convolutions(config_for, tiny_folder):
    unet = load_generator(config_for(tiny_folder("sdxl")), **CPU).unet
    layers = lora.resolve_layers(unet, ["unet.up_blocks[-1]"])
    assert layers
    assert all(".resnets." in name for name in layers)


@pytest.mark.parametrize(
    "entry",
    [
        "unet.up_blocks[9]",
        "unet.up_blocks[-6]",
        "unet.middle",
        "unet.down_blocks[0].attentions[0]",
        "unet.conv_act",
        "a b",
        "",
    ],
)
def test_an_entry_that_matches_nothing_lists_the_blocks_that_exist(demo_generator, entry):
    with pytest.raises(ConfigError, match=r"(?s)learnable_layers.*unet\.down_blocks\[0\].*unet\.mid_block") as caught:
        lora.resolve_layers(demo_generator().unet, ["unet.mid_block", entry])
    assert str(caught.value.got) == entry


def test_no_entry_at_all_is_refused(demo_generator):
    with pytest.raises(ConfigError, match="empty list"):
        lora.resolve_layers(demo_generator().unet, [])


def test_fresh_adapters_change_nothing(demo_generator, crops):
    generator = demo_generator()
    images, masks, noise = crops(generator)
    before = generator.fill(images, masks, Kind.FACE, noise=noise)
    lora.make_trainable(generator, SETTINGS)
    assert torch.equal(generator.fill(images, masks, Kind.FACE, noise=noise), before)


def test_each_kind_uses_and_trains_its_own_adapter(demo_generator, crops):
    generator = demo_generator()
    lora.make_trainable(generator, SETTINGS)
    images, masks, noise = crops(generator)
    generator.fill(images, masks, Kind.PLATE, noise=noise, anchors=images).square().sum().backward()
    moved = {
        n for n, p in lora.trainable_parameters(generator).items() if p.grad is not None and p.grad.abs().sum() > 0
    }
    assert moved
    assert all(".plate." in name for name in moved)


def test_both_adapters_are_trainable_whichever_is_active(demo_generator):
    generator = demo_generator()
    lora.make_trainable(generator, SETTINGS)
    names = set(lora.trainable_parameters(generator))
    lora.activate(generator, Kind.PLATE)
    assert set(lora.trainable_parameters(generator)) == names
    assert {name.replace(".face.", ".plate.") for name in names if ".face." in name} == {
        n for n in names if ".plate." in n
    }


def test_trained_weights_are_float32_beside_a_half_precision_base(config_for, tiny_folder, crops):
    generator = load_generator(config_for(tiny_folder("sd2")), device=torch.device("cpu"), dtype=torch.bfloat16)
    lora.make_trainable(generator, Finetune(learnable_layers=("unet.mid_block",)))
    parameters = lora.trainable_parameters(generator)
    assert {p.dtype for p in parameters.values()} == {torch.float32}
    assert generator.unet.conv_in.weight.dtype == torch.bfloat16
    images, masks, noise = crops(generator)
    generator.fill(images, masks, Kind.FACE, noise=noise).square().sum().backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in parameters.values())


def test_the_base_model_shows_through_without_adapters(demo_generator, crops):
    generator = demo_generator()
    images, masks, noise = crops(generator)
    base = generator.fill(images, masks, Kind.FACE, noise=noise)
    lora.make_trainable(generator, SETTINGS)
    scramble(generator)
    adapted = generator.fill(images, masks, Kind.FACE, noise=noise)
    with lora.without_adapters(generator):
        assert torch.equal(generator.fill(images, masks, Kind.FACE, noise=noise), base)
    assert torch.equal(generator.fill(images, masks, Kind.FACE, noise=noise), adapted)
    assert not torch.equal(adapted, base)


@pytest.mark.parametrize("family", ["demo", "sd15", "sdxl"])
def test_a_stock_pipeline_loads_the_adapter_to_the_same_output(
    demo_generator, config_for, tiny_folder, crops, tmp_path, family
):
    make = demo_generator if family == "demo" else lambda: load_generator(config_for(tiny_folder(family)), **CPU)
    generator = make()
    lora.make_trainable(
        generator, Finetune(learnable_layers=("unet.mid_block", "unet.up_blocks[0]"), lora_rank=4, lora_alpha=6)
    )
    scramble(generator)
    lora.save_adapters(generator, tmp_path)
    images, masks, noise = crops(generator)
    for kind, name in lora.ADAPTERS.items():
        expected = generator.fill(images, masks, kind, noise=noise, anchors=images)
        stock = make()
        stock.pipeline.load_lora_weights(tmp_path / name, weight_name=lora.WEIGHTS_FILE)
        filled = stock.fill(images, masks, kind, noise=noise, anchors=images)
        assert torch.allclose(filled, expected, atol=1e-5)


def test_saved_adapters_come_back_exactly(demo_generator, crops, tmp_path):
    generator = demo_generator()
    lora.make_trainable(generator, SETTINGS)
    scramble(generator)
    lora.save_adapters(generator, tmp_path)
    assert sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()) == [
        "adapters.json",
        "face/pytorch_lora_weights.safetensors",
        "plate/pytorch_lora_weights.safetensors",
    ]
    images, masks, noise = crops(generator)
    for prepared in (False, True):
        loaded = demo_generator()
        if prepared:
            lora.make_trainable(loaded, SETTINGS)
        lora.load_adapters(loaded, tmp_path)
        for kind in Kind:
            expected = generator.fill(images, masks, kind, noise=noise, anchors=images)
            assert torch.equal(loaded.fill(images, masks, kind, noise=noise, anchors=images), expected)


def test_layers_trained_themselves_come_back_exactly(demo_generator, crops, tmp_path):
    generator = demo_generator()
    lora.make_trainable(generator, Finetune(use_lora=False))
    parameters = lora.trainable_parameters(generator)
    assert parameters
    assert all(name.startswith(("mid_block.", "up_blocks.4.")) for name in parameters)
    scramble(generator)
    lora.save_adapters(generator, tmp_path)
    loaded = demo_generator()
    lora.load_adapters(loaded, tmp_path)
    assert set(lora.trainable_parameters(loaded)) == set(parameters)
    images, masks, noise = crops(generator)
    expected = generator.fill(images, masks, Kind.FACE, noise=noise)
    assert torch.equal(loaded.fill(images, masks, Kind.FACE, noise=noise), expected)
    base = demo_generator().fill(images, masks, Kind.FACE, noise=noise)
    assert not torch.equal(base, expected)
    with lora.without_adapters(loaded):
        assert torch.equal(loaded.fill(images, masks, Kind.FACE, noise=noise), base)
    assert torch.equal(loaded.fill(images, masks, Kind.FACE, noise=noise), expected)


def test_adapters_of_another_base_are_refused_and_both_are_named(demo_generator, tmp_path):
    generator = demo_generator()
    lora.make_trainable(generator, SETTINGS)
    lora.save_adapters(generator, tmp_path)
    stranger = demo_generator()
    stranger.base_id = "other@000000000000"
    with pytest.raises(CheckpointError, match=r"(?s)another base model.*other@0+.*demo@"):
        lora.load_adapters(stranger, tmp_path)


def test_a_folder_without_adapters_is_refused(demo_generator, tmp_path):
    with pytest.raises(CheckpointError, match=r"adapters\.json"):
        lora.load_adapters(demo_generator(), tmp_path)


def test_an_adapter_without_metadata_is_refused(demo_generator, tmp_path):
    generator = demo_generator()
    lora.make_trainable(generator, SETTINGS)
    lora.save_adapters(generator, tmp_path)
    file = tmp_path / "face" / lora.WEIGHTS_FILE
    save_file(load_file(file), file)
    with pytest.raises(CheckpointError, match="does not say how it was made"):
        lora.load_adapters(demo_generator(), tmp_path)


def plain_weights(generator):
    """The weights of all layers, without adapters, by the layers' own names."""
    state = generator.unet.state_dict()
    return {key.replace(".base_layer.", "."): value for key, value in state.items() if ".lora_" not in key}


def delta(folder, adapter, layer, alpha_over_rank):
    """The change that an exported adapter makes to a layer's weights, computed from the file alone."""
    state = load_file(folder / adapter / lora.WEIGHTS_FILE)
    down, up = state[f"unet.{layer}.lora_A.weight"], state[f"unet.{layer}.lora_B.weight"]
    return alpha_over_rank * torch.einsum("or,r...->o...", up.flatten(1), down)


@pytest.fixture
def mixed(demo_generator):
    """A generator with adapters of several styles, each with weights of its own."""
    generator = demo_generator()
    lora.make_trainable(generator, MIXES)
    scramble(generator)
    return generator


@pytest.mark.parametrize(
    ("style", "mix"), [("FR", {"plate": 0.8, "style_FR": 0.5}), ("AT", {"style_DE": 0.25}), ("NL", {"plate": 1.0})]
)
def test_merged_weights_are_the_base_and_a_linear_combination_of_changes(mixed, tmp_path, style, mix):
    lora.save_adapters(mixed, tmp_path)
    before = plain_weights(mixed)
    lora.merge(mixed, Kind.PLATE, style)
    after = plain_weights(mixed)
    layers = lora.resolve_layers(mixed.unet, MIXES.learnable_layers)
    changes = {name for name in before if not torch.equal(before[name], after[name])}
    assert changes == {f"{layer}.weight" for layer in layers}
    for layer in layers:
        wanted = sum(weight * delta(tmp_path, name, layer, 6 / 3) for name, weight in mix.items())
        assert torch.allclose(after[f"{layer}.weight"] - before[f"{layer}.weight"], wanted, atol=1e-5), layer


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_merging_keeps_the_output_and_unmerging_restores_weights_to_the_bit(mixed, crops, dtype):
    images, masks, noise = crops(mixed)
    mixed.unet.to(dtype)
    mixed.vae.to(dtype)
    before, bare = plain_weights(mixed), {}
    for kind, style in ((Kind.PLATE, "FR"), (Kind.FACE, None)):
        bare[kind] = mixed.fill(images, masks, kind, noise=noise, anchors=images, styles=[style] * 2).detach()
        lora.merge(mixed, kind, style)
        with torch.no_grad():
            merged = mixed.fill(images, masks, kind, noise=noise, anchors=images, styles=[style] * 2)
        tolerance = 1e-5 if dtype == torch.float32 else 0.01
        assert (merged - bare[kind]).abs().mean() < tolerance
        lora.unmerge(mixed)
        after = plain_weights(mixed)
        assert all(torch.equal(before[name], after[name]) for name in before)
        again = mixed.fill(images, masks, kind, noise=noise, anchors=images, styles=[style] * 2)
        assert torch.equal(again, bare[kind])
    assert not torch.equal(bare[Kind.PLATE], bare[Kind.FACE])


def test_with_adapters_merged_no_others_can_be_used(mixed, crops):
    images, masks, noise = crops(mixed)
    lora.merge(mixed, Kind.PLATE, "FR")
    with pytest.raises(ValueError, match="unmerge"):
        mixed.fill(images, masks, Kind.FACE, noise=noise)
    with pytest.raises(ValueError, match="unmerge"):
        lora.merge(mixed, Kind.FACE)
    with pytest.raises(ValueError, match="unmerge"), lora.without_adapters(mixed):
        pass


def test_an_adapter_that_is_not_finite_is_not_merged(mixed):
    before = plain_weights(mixed)
    next(p for n, p in lora.trainable_parameters(mixed).items() if ".style_FR." in n).data[:] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        lora.merge(mixed, Kind.PLATE, "FR")
    after = plain_weights(mixed)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not mixed.unmerged


def test_each_crop_of_a_batch_is_filled_by_the_adapters_of_its_style(mixed, crops):
    images, masks, noise = crops(mixed)
    with torch.no_grad():
        both = mixed.fill(images, masks, Kind.PLATE, noise=noise, anchors=images, styles=["FR", "DE"])
        for place, style in enumerate(["FR", "DE"]):
            one = slice(place, place + 1)
            alone = mixed.fill(
                images[one], masks[one], Kind.PLATE, noise=noise[one], anchors=images[one], styles=[style]
            )
            assert torch.allclose(both[one], alone, atol=1e-5)
        swapped = mixed.fill(images, masks, Kind.PLATE, noise=noise, anchors=images, styles=["DE", "FR"])
        plain = mixed.fill(images, masks, Kind.PLATE, noise=noise, anchors=images)
    assert not torch.allclose(both, swapped, atol=1e-3)
    assert not torch.allclose(both, plain, atol=1e-3)
    with pytest.raises(ValueError, match="in turn"):
        mixed.fill(images, masks, Kind.PLATE, noise=noise, anchors=images, styles=["FR", "DE"])


def test_faces_know_no_plate_style(mixed):
    assert lora.mix_of(mixed, Kind.FACE, "FR") == (("face", 1.0),)
    assert mixed.passes(Kind.FACE, ["FR", "DE", None], [False] * 3) == [[0, 1, 2]]
    assert mixed.passes(Kind.PLATE, ["NL", "FR", None, "AT", "FR"], [False] * 5) == [[0, 2], [1, 4], [3]]


def test_mixes_come_back_with_their_adapters_and_a_stock_pipeline_mixes_to_the_same_output(
    mixed, demo_generator, crops, tmp_path
):
    lora.save_adapters(mixed, tmp_path)
    loaded, stock = demo_generator(), demo_generator()
    lora.load_adapters(loaded, tmp_path)
    images, masks, noise = crops(mixed)
    expected = mixed.fill(images, masks, Kind.PLATE, noise=noise, anchors=images, styles=["FR"] * 2)
    assert torch.equal(loaded.fill(images, masks, Kind.PLATE, noise=noise, anchors=images, styles=["FR"] * 2), expected)
    for name in ("plate", "style_FR"):
        # Names that the generator does not know: it leaves the stock pipeline's choice alone.
        stock.pipeline.load_lora_weights(tmp_path / name, weight_name=lora.WEIGHTS_FILE, adapter_name=f"stock_{name}")
    stock.pipeline.set_adapters(["stock_plate", "stock_style_FR"], [0.8, 0.5])
    filled = stock.fill(images, masks, Kind.PLATE, noise=noise, anchors=images)
    assert torch.allclose(filled, expected, atol=1e-5)


def test_a_mix_of_an_adapter_that_is_not_there_is_refused(mixed, demo_generator, tmp_path):
    lora.save_adapters(mixed, tmp_path)
    index = tmp_path / lora.INDEX_FILE
    index.write_text(index.read_text().replace('"style_FR": 0.5', '"style_XX": 0.5'))
    with pytest.raises(CheckpointError, match="style_XX"):
        lora.load_adapters(demo_generator(), tmp_path)


def test_a_mix_of_a_style_that_does_not_exist_is_refused(demo_generator):
    with pytest.raises(ConfigError, match=r"(?s)style_mix.*XX.*DE"):
        lora.make_trainable(demo_generator(), Finetune(style_mix={"XX": {"plate": 1.0}}))


@pytest.mark.parametrize(
    "wrong", [{"FR": {}}, {"FR": {"face": 1.0}}, {"FR": {"style_": 1.0}}, {"FR": {"plate": 0.0}}, {"FR": {"plate": -1}}]
)
def test_mixes_are_of_adapters_with_weights(wrong):
    with pytest.raises(ValueError, match="style_mix"):
        Finetune(style_mix=wrong)


def test_layers_trained_themselves_have_nothing_to_mix():
    with pytest.raises(ValueError, match="use_lora"):
        Finetune(use_lora=False, style_mix={"FR": {"plate": 1.0}})


def test_merged_and_without_adapters_it_is_a_stock_pipeline_of_the_same_output(mixed, crops, tmp_path):
    images, masks, noise = crops(mixed)
    expected = mixed.fill(images, masks, Kind.PLATE, noise=noise, anchors=images, styles=["FR"] * 2)
    lora.merge(mixed, Kind.PLATE, "FR")
    mixed.unet.unload_lora()
    mixed.unet.save_pretrained(tmp_path)
    mixed.unet.load_state_dict({name: torch.zeros_like(value) for name, value in mixed.unet.state_dict().items()})
    mixed.unet.load_state_dict(UNet2DConditionModel.from_pretrained(tmp_path).state_dict())
    filled = mixed.fill(images, masks, Kind.PLATE, noise=noise, anchors=images)
    assert torch.allclose(filled, expected, atol=1e-4)
