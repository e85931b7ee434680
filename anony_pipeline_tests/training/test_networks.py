import pytest
import torch
import torchvision

from anony_pipeline.config.schema import Config
from anony_pipeline.errors import ConfigError
from anony_pipeline.losses import perceptual
from anony_pipeline.models import lora
from anony_pipeline.models.features import FeatureNet
from anony_pipeline.structures.regions import Kind
from anony_pipeline.training import batches, networks
from anony_pipeline.training.networks import load_critics
from anony_pipeline.training.objective import Objective
from anony_pipeline_tests.training import tiny
from benchmarks import several_gpus


def critics(tmp_path, **changes):
    return load_critics(tiny.make_config(tmp_path, **changes), torch.device("cpu"))


def test_the_network_that_judges_kid_is_in_no_loss(tmp_path):
    found = vars(critics(tmp_path))
    assert found.pop("lpips") is None
    assert all(critic is not None for critic in found.values())
    assert not any(isinstance(module, FeatureNet) for critic in found.values() for module in critic.modules())


def test_all_critics_are_frozen(tmp_path):
    found = [critic for critic in vars(critics(tmp_path)).values() if critic is not None]
    assert not any(p.requires_grad for critic in found for p in critic.parameters())


def test_a_critic_whose_losses_have_no_weight_is_not_loaded(tmp_path):
    names = ("perceptual", "detection", "id_suppress", "reading", "read_suppress")
    off = {f"loss__{name}_weight": 0.0 for name in names}
    assert all(critic is None for critic in vars(critics(tmp_path, **off)).values())
    seen = critics(tmp_path, **{**off, "loss__perceptual_weight": 0.1})
    assert seen.detector is not None
    assert seen.recognizer is seen.reader is None


def test_the_defaults_ask_for_every_critic():
    loss = Config.model_validate(
        {"name": "x", "data": {"sources": [{"name": "a", "layout": "widerface", "root": "a", "exhaustive": ["face"]}]}}
    ).loss
    assert min(loss.perceptual_weight, loss.detection_weight, loss.id_suppress_weight, loss.reading_weight) > 0


def test_given_files_make_the_perceptual_distance_lpips(tmp_path, data, config):
    path = tmp_path / "squeezenet1_1.pth"
    torch.manual_seed(0)
    torch.save(torchvision.models.squeezenet1_1(weights=None).state_dict(), path)
    others = ("l1", "detection", "id_suppress", "adv", "reading", "read_suppress")
    settings = config(
        model__lpips={"network": "squeeze", "backbone": str(path)}, **{f"loss__{name}_weight": 0.0 for name in others}
    )
    found = load_critics(settings, torch.device("cpu"))
    assert found.detector is None
    samples = data.samples[Kind.FACE]
    batch = batches.assemble(samples, [0, 1], samples.masks[:2], torch.empty(0), torch.device("cpu"))
    total, losses = Objective(found, None, settings.loss, margin=0.0)(batch, batch.originals, "joint")
    wanted = perceptual.perceptual_distance(
        found.lpips.maps, batch.originals, batch.targets, list(found.lpips.fitted)
    ).item()
    assert wanted > 0
    assert losses["perceptual"].item() == pytest.approx(wanted)
    assert total.item() == pytest.approx(settings.loss.perceptual_weight * wanted)


def test_compiling_is_refused_with_the_reason_where_it_cannot_run(config, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("InvalidCxxCompiler: No working C++ compiler found")

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(ConfigError, match=r"(?s)torch_compile.*cpu.*No working C\+\+ compiler.*false"):
        networks.compile_blocks(tiny.make_generator(config()))


def test_weights_are_gathered_in_blocks_that_are_small_of_a_large_unet_and_hold_nearly_all_of_it():
    with torch.device("meta"):
        unet = several_gpus.sdxl_unet("real")
    blocks = [block for block in unet.modules() if isinstance(block, networks.GATHERED_TOGETHER)]
    inside = [parameter for block in blocks for parameter in block.parameters()]
    assert len(inside) == len(set(inside)), "a block within a block is gathered twice"
    everything = sum(parameter.numel() for parameter in unet.parameters())
    assert everything == pytest.approx(2.57e9, rel=0.01)
    assert max(sum(parameter.numel() for parameter in block.parameters()) for block in blocks) < 0.03 * everything
    assert sum(parameter.numel() for parameter in inside) > 0.95 * everything


def test_compiled_blocks_and_shared_out_weights_exclude_each_other(config):
    with pytest.raises(ValueError, match="never run together"):
        config(training__fsdp=True, training__torch_compile=True)


@pytest.mark.slow
def test_compiled_blocks_compute_the_same_outputs_and_gradients(config):
    generator = tiny.make_networks(config()).generator
    weights = lora.trainable_parameters(generator)
    for value in weights.values():
        torch.nn.init.normal_(value.data, std=0.1, generator=torch.manual_seed(4))
    images, noise = torch.rand(2, 3, 32, 32), torch.randn(generator.noise_shape(2, (32, 32)))
    masks = torch.ones(2, 1, 32, 32)

    def step():
        generator.zero_grad()
        filled = generator.fill(images, masks, Kind.FACE, noise=noise)
        filled.square().mean().backward()
        return filled.detach(), {name: value.grad.clone() for name, value in weights.items() if value.grad is not None}

    plain, gradients = step()
    torch._dynamo.utils.counters.clear()
    networks.compile_blocks(generator)
    compiled, compiled_gradients = step()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 2
    assert torch.allclose(compiled, plain, atol=1e-5)
    assert compiled_gradients.keys() == gradients.keys()
    for name, gradient in gradients.items():
        assert torch.allclose(compiled_gradients[name], gradient, atol=1e-6, rtol=1e-3), name


def test_the_original_serial_is_pushed_away_only_where_that_is_asked_for():
    sources = {"sources": [{"name": "a", "layout": "widerface", "root": "a", "exhaustive": ["face"]}]}
    for loss, asked in (({}, False), ({"read_suppress_weight": 0.1}, True)):
        weights = Config.model_validate({"name": "x", "data": sources, "loss": loss}).loss
        counted = Objective(networks.Critics(), None, weights, margin=0.0).weights(Kind.PLATE, "joint")
        assert ("read_suppress" in counted) is asked


def loaded(tmp_path, **changes):
    return networks.load_networks(tiny.make_config(tmp_path, **changes), torch.device("cpu"))


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_frozen_weights_have_the_precision_and_trained_ones_are_float32(tmp_path, precision, dtype):
    generator = loaded(tmp_path, precision=precision).generator
    trained = list(lora.trainable_parameters(generator).values())
    frozen = [value for value in generator.unet.parameters() if all(value is not other for other in trained)]
    assert {value.dtype for value in trained} == {torch.float32}
    assert {value.dtype for value in frozen} == {dtype}


@pytest.mark.parametrize("channels", [4, 6])
def test_the_discriminator_is_as_wide_as_asked(tmp_path, channels):
    discriminator = loaded(tmp_path, model__discriminator__channels=channels).discriminator
    images, masks = torch.zeros(1, 3, 32, 32), torch.ones(1, 1, 32, 32)
    assert discriminator.features(images, masks)[0].shape[1] == channels


@pytest.mark.parametrize("wanted", [False, True])
def test_compiling_and_gradient_checkpointing_are_on_where_they_are_asked_for(tmp_path, monkeypatch, wanted):
    compiled = []
    monkeypatch.setattr(networks, "compile_blocks", compiled.append)
    settings = {"training__torch_compile": wanted, "model__generator__diffusers": {"gradient_checkpointing": wanted}}
    generator = loaded(tmp_path, **settings).generator
    assert compiled == ([generator] if wanted else [])
    assert generator.unet.is_gradient_checkpointing is wanted
