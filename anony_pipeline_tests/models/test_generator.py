import hashlib
import json
import shutil
from itertools import pairwise

import pytest
import torch
from safetensors.torch import load_file, save_file

from anony_pipeline.config.schema import Config
from anony_pipeline.errors import ConfigError, WeightsError
from anony_pipeline.models import generator as generators
from anony_pipeline.models import weights
from anony_pipeline.models.demo_pipeline import build_demo_pipeline, build_demo_unet
from anony_pipeline.models.generator import Generator, load_generator, outline_unet
from anony_pipeline.structures.regions import Kind
from anony_pipeline_tests.models.conftest import SOURCE
from anony_pipeline_tests.models.tiny_pipelines import save_pipeline, save_single_file

CPU = {"device": torch.device("cpu"), "dtype": torch.float32}


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_faces_equal_the_stock_pipeline_with_the_same_noise_and_steps(demo_generator, crops, steps):
    generator = demo_generator(steps=steps)
    images, masks, noise = crops(generator)
    with torch.no_grad():
        filled = generator.fill(images, masks, Kind.FACE, noise=noise)
    generator.pipeline.set_progress_bar_config(disable=True)
    stock = generator.pipeline(
        prompt=["a face"] * 2, image=images, mask_image=masks, height=64, width=64, strength=1.0,
        num_inference_steps=steps, guidance_scale=1.0, latents=noise, output_type="pt",
    ).images  # fmt: skip
    assert torch.allclose(filled, torch.where(masks > 0.5, stock * 2 - 1, images), atol=1e-4)


@pytest.mark.parametrize("kind", list(Kind))
def test_the_result_equals_the_image_to_the_bit_outside_the_mask(demo_generator, crops, kind):
    generator = demo_generator()
    images, masks, noise = crops(generator)
    filled = generator.fill(images, masks, kind, noise=noise, anchors=torch.zeros_like(images))
    outside = (masks < 0.5).expand_as(images)
    assert torch.equal(filled[outside], images[outside])
    assert not torch.equal(filled[~outside], images[~outside])


@pytest.mark.parametrize("kind", list(Kind))
@pytest.mark.parametrize("family", ["demo", "sd2"])
def test_pixels_under_the_mask_never_matter(demo_generator, crops, config_for, tiny_folder, family, kind):
    generator = demo_generator(steps=2) if family == "demo" else load_generator(config_for(tiny_folder("sd2")), **CPU)
    images, masks, noise = crops(generator)
    anchors = torch.full_like(images, 0.3)
    results = [
        generator.fill(images.masked_fill(masks > 0.5, hidden), masks, kind, noise=noise, anchors=anchors)
        for hidden in (0.9, -0.7, float("nan"))
    ]
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_only_the_anchor_under_the_mask_counts(demo_generator, crops):
    generator = demo_generator()
    images, masks, noise = crops(generator)
    anchors = torch.rand_like(images)
    first = generator.fill(images, masks, Kind.PLATE, noise=noise, anchors=anchors)
    second = generator.fill(
        images, masks, Kind.PLATE, noise=noise, anchors=torch.where(masks > 0.5, anchors, anchors - 1)
    )
    other = generator.fill(images, masks, Kind.PLATE, noise=noise, anchors=anchors - 0.5)
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_a_lower_anchor_strength_keeps_more_of_the_anchor(demo_generator, crops):
    # A UNet that gives back its noisy latents shows what the schedule leaves of the anchor.
    kept = []
    for strength in (0.1, 0.9):
        generator = demo_generator(anchor_strength=strength)
        generator.unet.forward = lambda noisy, *_, **__: type("Output", (), {"sample": noisy[:, :4]})
        images, masks, noise = crops(generator)
        anchors = torch.full_like(images, 0.8)
        filled = generator.fill(images, masks, Kind.PLATE, noise=noise, anchors=anchors)
        kept.append(((filled - anchors).abs() * masks).sum())
    assert kept[0] < kept[1]


def test_a_plate_keeps_its_anchors_colors_whatever_the_generator_makes_of_them(demo_generator, crops):
    generator = demo_generator()
    images, masks, noise = crops(generator)
    anchors = torch.tensor([0.8, 0.4, -0.6]).view(1, 3, 1, 1) + 0.1 * torch.randn_like(images)
    for bias in (-0.3, 0.0, 0.3):
        generator.decode = lambda latents, bias=bias: torch.full_like(images, bias, requires_grad=True)
        filled = generator.fill(images, masks, Kind.PLATE, noise=noise, anchors=anchors)
        inside = masks.expand_as(images) > 0.5
        for channel in range(3):
            made, wanted = (float(it[:, channel][inside[:, channel]].mean()) for it in (filled, anchors))
            assert made == pytest.approx(wanted, abs=0.03)


def test_fine_detail_is_the_generators_and_learns(demo_generator, crops):
    generator = demo_generator()
    images, masks, _ = crops(generator)
    columns = torch.arange(images.shape[3]) % 2
    fine = (columns * 0.4 - 0.2).expand_as(images).clone().requires_grad_(True)
    made = generators.with_coarse_of(torch.full_like(images, 0.3), fine, masks)
    middle = made.detach()[..., 1:] - made.detach()[..., :-1]
    under = (masks[..., 1:] * masks[..., :-1]).expand_as(middle) > 0.5
    assert float(middle[under].abs().mean()) == pytest.approx(0.4, abs=0.04)
    (made * masks * (columns - 0.5)).sum().backward()
    assert fine.grad.abs().sum() > 0
    unseen = generators.with_coarse_of(
        torch.full_like(images, 0.3).masked_fill(masks < 0.5, float("nan")), fine.detach(), masks
    )
    assert torch.equal((unseen * masks)[masks.expand_as(images) > 0.5], made.detach()[masks.expand_as(images) > 0.5])


@pytest.mark.parametrize("strength", [0.4, 0.0001])
@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_plates_start_at_the_strength_and_step_down_evenly(demo_generator, crops, steps, strength):
    generator = demo_generator(steps=steps, anchor_strength=strength)
    seen = []
    generator.unet.forward = lambda noisy, timesteps, **__: (
        seen.append(int(timesteps[0])) or type("Output", (), {"sample": noisy[:, :4]})
    )
    images, masks, noise = crops(generator)
    generator.fill(images, masks, Kind.PLATE, noise=noise, anchors=images)
    first = round(999 * strength)
    assert seen[0] == first
    assert len(seen) == steps
    assert seen == sorted(seen, reverse=True)
    assert seen[-1] >= 0
    assert all(abs((a - b) - (first + 1) / steps) <= 1 for a, b in pairwise(seen))


def test_plates_without_an_anchor_are_refused(demo_generator, crops):
    generator = demo_generator()
    images, masks, noise = crops(generator)
    with pytest.raises(ValueError, match="plates start from an anchor"):
        generator.fill(images, masks, Kind.PLATE, noise=noise)


def test_the_gradient_passes_through_the_last_step_only(demo_generator, crops):
    generator = demo_generator(steps=3)
    calls = []
    generator.unet.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    generator.unet.conv_out.requires_grad_(True)
    images, masks, noise = crops(generator)
    generator.fill(images, masks, Kind.FACE, noise=noise).square().sum().backward()
    assert calls == [False, False, True]
    assert generator.unet.conv_out.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
def test_clean_latents_follow_the_schedulers_prediction_type(demo_generator, prediction):
    generator = demo_generator()
    generator.pipeline.scheduler.register_to_config(prediction_type=prediction)
    rng = torch.Generator().manual_seed(0)
    noisy, condition = torch.randn(1, 4, 16, 16, generator=rng), torch.randn(1, 5, 16, 16, generator=rng)
    clean = generator.predict_clean(noisy, torch.tensor([600]), condition, Kind.FACE)
    scheduler = generator.pipeline.scheduler
    scheduler.set_timesteps(1)
    output = generator.unet(
        torch.cat([noisy, condition], 1), torch.tensor([600]), encoder_hidden_states=generator.prompt_face
    ).sample
    expected = scheduler.step(output, 600, noisy).pred_original_sample
    assert torch.allclose(clean, expected, atol=1e-4)


def test_the_text_encoder_is_the_same_in_each_process_and_knows_the_kinds_apart(demo_generator):
    first, second = demo_generator(), demo_generator()
    assert torch.equal(first.prompt_face, second.prompt_face)
    assert (first.prompt_face - first.prompt_license_plate).abs().mean() > 0.1


def test_the_demos_prompt_embedding_is_the_one_that_the_shipped_unet_was_trained_with(demo_generator):
    # A change here means that the shipped weights must be made anew.
    expected = torch.tensor([-1.6516, 0.6865, 1.6006, 0.5376])
    assert torch.allclose(demo_generator().prompt_face[0, 0, :4], expected, atol=1e-3)


@pytest.mark.parametrize("family", ["sd15", "sd2", "sd2-v", "sdxl"])
def test_folders_of_each_architecture_load_and_fill(config_for, tiny_folder, crops, family):
    generator = load_generator(config_for(tiny_folder(family), face_steps=2, plate_steps=2), **CPU)
    images, masks, noise = crops(generator)
    assert noise.shape == (2, 4, 8, 8)
    for kind in Kind:
        filled = generator.fill(images, masks, kind, noise=noise, anchors=images)
        assert torch.isfinite(filled).all()
        assert torch.equal(filled[(masks < 0.5).expand_as(images)], images[(masks < 0.5).expand_as(images)])
    expected = "v_prediction" if family == "sd2-v" else "epsilon"
    assert generator.pipeline.scheduler.config.prediction_type == expected
    assert not any(parameter.requires_grad for parameter in generator.parameters())


def test_sdxl_conditions_equal_the_stock_pipelines(config_for, tiny_folder):
    generator = load_generator(config_for(tiny_folder("sdxl")), **CPU)
    seen = {}
    generator.unet.register_forward_hook(
        lambda module, args, kwargs, output: seen.update(kwargs["added_cond_kwargs"]), with_kwargs=True
    )
    images, masks = torch.zeros(1, 3, 64, 96), torch.ones(1, 1, 64, 96)
    generator.fill(images, masks, Kind.FACE, noise=torch.randn(1, 4, 8, 12))
    ours = {key: value.clone() for key, value in seen.items()}
    generator.pipeline.set_progress_bar_config(disable=True)
    generator.pipeline(
        prompt="a face", image=images, mask_image=masks, height=64, width=96, strength=1.0, num_inference_steps=1,
        guidance_scale=1.0, output_type="latent",
    )  # fmt: skip
    assert torch.allclose(ours["text_embeds"], seen["text_embeds"], atol=1e-5)
    assert torch.equal(ours["time_ids"], seen["time_ids"])


def test_half_precision_keeps_the_frame_exact(config_for, tiny_folder, crops):
    generator = load_generator(config_for(tiny_folder("sd2")), device=torch.device("cpu"), dtype=torch.bfloat16)
    images, masks, noise = crops(generator)
    filled = generator.fill(images, masks, Kind.FACE, noise=noise)
    assert filled.dtype == torch.float32
    assert torch.equal(filled[(masks < 0.5).expand_as(images)], images[(masks < 0.5).expand_as(images)])


def test_a_four_channel_unet_is_refused_with_the_way_to_nine(config_for, tmp_path):
    folder = save_pipeline("sd2", tmp_path / "text_to_image", in_channels=4)
    with pytest.raises(WeightsError, match=r"(?s)4 input channels.*inpainting variant.*widen conv_in to 9"):
        load_generator(config_for(folder), **CPU)


def test_pickled_weights_are_refused(config_for, tmp_path):
    folder = save_pipeline("sd15", tmp_path / "pickled", safe=False)
    assert list(folder.rglob("*.bin"))
    with pytest.raises(WeightsError, match=r"(?s)safetensors.*safe_serialization"):
        load_generator(config_for(folder), **CPU)


def test_a_truncated_weights_file_is_named(config_for, tmp_path):
    folder = save_pipeline("sd15", tmp_path / "cut")
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(WeightsError, match=r"(?s)can't be loaded.*cut"):
        load_generator(config_for(folder), **CPU)


def test_a_folder_that_lacks_something_is_refused_by_what_it_lacks(config_for, tiny_folder, tmp_path):
    def spoiled(name, spoil):
        folder = shutil.copytree(tiny_folder("sdxl"), tmp_path / name)
        spoil(folder)
        return config_for(folder)

    def cut(folder):
        file = folder / "text_encoder_2" / "model.safetensors"
        file.write_bytes(file.read_bytes()[:-7])

    def drop(part, file):
        def spoil(folder):
            state = load_file(folder / part / file)
            del state[sorted(state)[1]]
            save_file(state, folder / part / file, metadata={"format": "pt"})

        return spoil

    cases = {
        "tokenizer_2": (lambda folder: shutil.rmtree(folder / "tokenizer_2"), "without tokenizer_2"),
        "cut": (cut, "(?s)can't be loaded.*not fully covered"),
        "unet": (drop("unet", "diffusion_pytorch_model.safetensors"), r"1 that no file has, unet\."),
        "text": (drop("text_encoder", "model.safetensors"), r"1 that no file has, text_encoder\."),
    }
    for name, (spoil, said) in cases.items():
        with pytest.raises(WeightsError, match=said):
            load_generator(spoiled(name, spoil), **CPU)


def test_a_folders_outline_is_refused_without_asking_a_network(config_for, tiny_folder, tmp_path):
    def outlined(name, spoil):
        folder = shutil.copytree(tiny_folder("sd15"), tmp_path / name)
        spoil(folder / "unet" / "config.json")
        return outline_unet(config_for(folder))

    with pytest.raises(WeightsError, match="StableDiffusionInpaintPipeline without unet"):
        outlined("flux", lambda file: shutil.rmtree(file.parent))
    for name, text in {"half": "{", "blocks": '{"down_block_types": ["NoBlock"]}'}.items():
        with pytest.raises(
            WeightsError, match=r"(?s)configurations of UNet and autoencoder can't be read.*unet/config\.json"
        ):
            outlined(name, lambda file, text=text: file.write_text(text))
    with pytest.raises(WeightsError, match=r"(?s)configurations.*can't be read.*no file named config\.json"):
        outlined("none", lambda file: file.unlink())


def test_a_folder_without_a_pipeline_is_refused(config_for, tmp_path):
    with pytest.raises(WeightsError, match=r"model_index\.json"):
        load_generator(config_for(tmp_path), **CPU)


def test_a_missing_model_names_where_it_was_looked_for(config_for, tmp_path):
    with pytest.raises(WeightsError, match="nobody/nothing"):
        load_generator(config_for("nobody/nothing", weights=tmp_path), **CPU)


@pytest.mark.parametrize("family", ["sd15", "sd2", "sdxl"])
def test_one_file_in_the_original_format_fills_as_the_folder_that_it_was_made_of(
    config_for, tiny_folder, crops, tmp_path, family
):
    folder, file, described = tiny_folder(family), tmp_path / "model.safetensors", tmp_path / "described"
    whole = load_generator(config_for(folder), **CPU)
    save_single_file(whole.pipeline, file)
    shutil.copytree(folder, described, ignore=shutil.ignore_patterns("*.safetensors"))
    config = config_for(file, diffusers={"single_file_config": str(described)})
    generator = load_generator(config, **CPU)
    images, masks, noise = crops(whole)
    for kind in Kind:
        asked = {"noise": noise, "anchors": images}
        assert torch.equal(generator.fill(images, masks, kind, **asked), whole.fill(images, masks, kind, **asked))
    assert outline_unet(config).config.in_channels == 9


def test_one_file_that_is_not_described_or_damaged_is_refused(config_for, tiny_folder, tmp_path):
    folder, file = tiny_folder("sd15"), tmp_path / "model.safetensors"
    save_single_file(load_generator(config_for(folder), **CPU).pipeline, file)
    with pytest.raises(ConfigError, match=r"(?s)single_file_config.*diffusers folder of the same architecture"):
        load_generator(config_for(file), **CPU)
    for other in ("sd2", "sdxl"):
        with pytest.raises(WeightsError, match=r"(?s)can't be loaded as this architecture.*single_file_config"):
            load_generator(config_for(file, diffusers={"single_file_config": str(tiny_folder(other))}), **CPU)
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(WeightsError, match="cut off"):
        load_generator(config_for(file, diffusers={"single_file_config": str(folder)}), **CPU)


def test_xformers_on_a_cpu_is_refused_with_the_reason(config_for, tiny_folder):
    with pytest.raises(ConfigError, match=r"(?s)enable_xformers.*needs a CUDA device.*on cpu"):
        load_generator(config_for(tiny_folder("sd15"), diffusers={"enable_xformers": True}), **CPU)


def test_gradient_checkpointing_changes_no_gradient(demo_generator, crops):
    gradients = []
    for checkpointing in (False, True):
        generator = demo_generator()
        generator.unet.conv_in.requires_grad_(True)
        if checkpointing:
            generator.unet.enable_gradient_checkpointing()
        generator.train()
        images, masks, noise = crops(generator)
        generator.fill(images, masks, Kind.FACE, noise=noise).square().sum().backward()
        gradients.append(generator.unet.conv_in.weight.grad)
    assert torch.allclose(*gradients, rtol=1e-4, atol=1e-5)


def test_with_gradient_checkpointing_decoding_keeps_less_for_the_same_gradient(config_for, tiny_folder, crops):
    kept, gradients = [], []
    for checkpointing in (False, True):
        options = {"gradient_checkpointing": checkpointing}
        generator = load_generator(config_for(tiny_folder("sd2"), diffusers=options), **CPU).train()
        latents, sizes = crops(generator)[2].clone().requires_grad_(True), []

        def pack(value, sizes=sizes):
            sizes.append(value.numel())
            return value

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
            decoded = generator.decode(latents)
        kept.append(sum(sizes))
        gradients += torch.autograd.grad(decoded.square().sum(), latents)
    assert kept[1] < kept[0] / 2
    assert torch.allclose(*gradients, rtol=1e-4, atol=1e-5)


def test_the_tiny_autoencoder_decodes_in_training_mode_alone(config_for, tiny_folder, crops, tmp_path):
    from diffusers import AutoencoderTiny

    torch.manual_seed(0)
    AutoencoderTiny(
        encoder_block_out_channels=(8, 8, 8, 8), decoder_block_out_channels=(8, 8, 8, 8),
        num_encoder_blocks=(1, 1, 1, 1), num_decoder_blocks=(1, 1, 1, 1),
    ).save_pretrained(tmp_path / "taesd")  # fmt: skip
    plain = load_generator(config_for(tiny_folder("sd2")), **CPU)
    both = load_generator(config_for(tiny_folder("sd2"), diffusers={"tiny_vae": str(tmp_path / "taesd")}), **CPU)
    images, masks, noise = crops(plain)
    expected = plain.fill(images, masks, Kind.FACE, noise=noise)
    assert torch.equal(both.fill(images, masks, Kind.FACE, noise=noise), expected)
    both.train()
    assert not torch.equal(both.fill(images, masks, Kind.FACE, noise=noise), expected)


@pytest.mark.parametrize("open_", [lambda config: load_generator(config, **CPU), outline_unet], ids=["load", "outline"])
def test_crops_that_are_no_whole_latents_are_refused_with_the_nearest_size(tiny_folder, open_):
    config = Config.model_validate(
        {
            "data": {"sources": [SOURCE]},
            "model": {"generator": {"diffusers": {"model_id": str(tiny_folder("sd15"))}, "face_size": 500}},
        }
    )
    with pytest.raises(ConfigError, match=r"(?s)model\.generator\.face_size\n.*500.*multiples of 8.*face_size: 496"):
        open_(config)


def test_another_networks_folder_is_no_tiny_autoencoder(config_for, tiny_folder):
    folder = tiny_folder("sd15")
    with pytest.raises(WeightsError, match=r"(?s)tiny autoencoder can't be loaded.*AutoencoderKL"):
        load_generator(config_for(folder, diffusers={"tiny_vae": str(folder / "vae")}), **CPU)


def test_weights_are_in_their_precision_before_they_are_moved(config_for, tiny_folder, monkeypatch):
    seen = []
    move = Generator.to
    monkeypatch.setattr(
        Generator, "to", lambda self, device: seen.append((self.unet.dtype, self.vae.dtype)) or move(self, device)
    )
    for family, vae in {"sd2": torch.bfloat16, "sdxl": torch.float32}.items():
        load_generator(config_for(tiny_folder(family)), device=torch.device("cpu"), dtype=torch.bfloat16)
        assert seen.pop() == (torch.bfloat16, vae)


def test_the_shipped_weights_are_loaded_into_the_demo_pipeline(config_for, tmp_path, monkeypatch):
    torch.manual_seed(7)
    unet = build_demo_unet()
    generators.weights.save_half(tmp_path / generators.SHIPPED_UNET, unet)
    monkeypatch.setattr(generators.weights, "shipped", lambda name: tmp_path / name)
    generator = load_generator(config_for("shipped"), **CPU)
    assert torch.equal(generator.unet.conv_in.weight, unet.conv_in.weight.half().float())
    assert generator.base_id.startswith("shipped@")


def test_the_base_identity_changes_with_the_weights_and_not_with_the_folder(config_for, tiny_folder, tmp_path):
    import shutil

    moved = shutil.copytree(tiny_folder("sd2"), tmp_path / tiny_folder("sd2").name)
    first, second = (load_generator(config_for(folder), **CPU) for folder in (tiny_folder("sd2"), moved))
    other = build_demo_pipeline()
    assert first.base_id == second.base_id
    assert str(tmp_path) not in second.base_id
    assert generators.base_identity("x", other) != generators.base_identity("x", build_demo_pipeline())
    identity = generators.base_identity("x", other)
    with torch.no_grad():
        other.unet.mid_block.resnets[0].conv1.weight[0, 0, 0, 0] += 0.01
    assert generators.base_identity("x", other) != identity


def test_the_version_of_the_shipped_base_is_the_sum_of_its_file(config_for):
    assert (
        generators.base_version(config_for("shipped"))
        == hashlib.sha256(weights.shipped(generators.SHIPPED_UNET).read_bytes()).hexdigest()
    )
    assert generators.base_version(config_for("sd-legacy/one")) == "sd-legacy/one@None"


@pytest.mark.parametrize("kind", list(Kind))
def test_small_crops_keep_their_surroundings_and_hide_what_they_replace(demo_generator, crops, kind):
    generator = demo_generator()
    images, masks, noise = crops(generator)
    # An odd border, which no half of a crop can follow.
    masks[0] = 0
    masks[0, :, 17:41, 21:45] = 1
    hidden = masks.expand_as(images) > 0.5
    anchors = torch.zeros_like(images)

    def fill(given):
        return generator.fill(given, masks, kind, noise=noise, anchors=anchors, small=[True, True])

    with torch.no_grad():
        filled = fill(images)
        assert torch.equal(filled[~hidden], images[~hidden])
        assert torch.equal(fill(images.masked_fill(hidden, float("nan"))), filled)
        visible = images.clone()
        visible[..., :8, :8] += 0.5
        assert not torch.equal(fill(visible)[hidden], filled[hidden])
        mixed = generator.fill(images, masks, kind, noise=noise, anchors=anchors, small=[False, True])
        large = generator.fill(images, masks, kind, noise=noise, anchors=anchors)
    assert torch.allclose(mixed[0], large[0], atol=1e-5)
    assert torch.allclose(mixed[1], filled[1], atol=1e-5)


def test_a_crop_is_small_if_half_of_it_shows_every_pixel(demo_generator):
    generator = demo_generator()
    assert not generator.is_small((0, 0, 10, 10), (128, 128))
    generator.has_small_crops = True
    assert generator.is_small((-5.0, 3.0, 59.0, 67.0), (128, 128))
    assert not generator.is_small((-5.0, 3.0, 59.1, 67.1), (128, 128))
    assert generator.is_small((0.0, 0.0, 96.0, 32.0), (64, 192))


def test_steps_strength_and_prompts_are_the_configurations(tiny_folder, crops):
    prompts = {Kind.FACE: "a smiling face", Kind.PLATE: "a yellow plate"}
    generator = load_generator(
        Config.model_validate(
            {
                "data": {"sources": [SOURCE]},
                "model": {
                    "generator": {
                        "diffusers": {"model_id": str(tiny_folder("sd15"))},
                        "face_prompt": prompts[Kind.FACE],
                        "plate_prompt": prompts[Kind.PLATE],
                    }
                },
                "face_steps": 3,
                "plate_steps": 2,
                "plate_text_anchor_strength": 0.7,
            }
        ),
        **CPU,
    )
    seen = []
    generator.unet.forward = lambda noisy, timesteps, encoder_hidden_states, **__: (
        seen.append((int(timesteps[0]), encoder_hidden_states)) or type("Output", (), {"sample": noisy[:, :4]})
    )
    images, masks, noise = crops(generator)
    for kind, timesteps in {Kind.FACE: [999, 666, 332], Kind.PLATE: [699, 349]}.items():
        seen.clear()
        generator.fill(images, masks, kind, noise=noise, anchors=images)
        # A third and a half of the way down, by diffusers' rounding and by ours.
        assert [timestep for timestep, _ in seen] == pytest.approx(timesteps, abs=1)
        wanted = generator.pipeline.encode_prompt(prompts[kind], CPU["device"], 1, False)[0]
        assert all(torch.equal(states, wanted.expand_as(states)) for _, states in seen)


@pytest.mark.parametrize("wanted", [False, True])
def test_gradient_checkpointing_is_on_where_it_is_asked_for(config_for, tiny_folder, wanted):
    generator = load_generator(config_for(tiny_folder("sd15"), diffusers={"gradient_checkpointing": wanted}), **CPU)
    assert generator.unet.is_gradient_checkpointing is wanted


def test_a_scheduler_that_predicts_something_unknown_is_refused(config_for, tiny_folder, tmp_path):
    folder = shutil.copytree(tiny_folder("sd15"), tmp_path / "flow")
    file = folder / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"prediction_type": "flow_prediction"}))
    said = r"(?s)predicts something unknown.*scheduler_config\.json of flow@.*flow_prediction.*epsilon, .*model_id"
    with pytest.raises(ConfigError, match=said):
        load_generator(config_for(folder), **CPU)
