import pytest
import torch

from anony_pipeline.config.schema import Finetune
from anony_pipeline.errors import CheckpointError, ConfigError
from anony_pipeline.models import lora
from anony_pipeline.models.generator import load_generator
from anony_pipeline.structures.regions import Kind

CPU = {"device": torch.device("cpu"), "dtype": torch.float32}
SETTINGS = Finetune()


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
    from safetensors.torch import load_file, save_file

    generator = demo_generator()
    lora.make_trainable(generator, SETTINGS)
    lora.save_adapters(generator, tmp_path)
    file = tmp_path / "face" / lora.WEIGHTS_FILE
    save_file(load_file(file), file)
    with pytest.raises(CheckpointError, match="does not say how it was made"):
        lora.load_adapters(demo_generator(), tmp_path)
