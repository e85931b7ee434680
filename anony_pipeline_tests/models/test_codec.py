import inspect

import numpy as np
import torch
from diffusers import AutoencoderKL
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from anony_pipeline.models.codec import LUMA, LumaCodec
from anony_pipeline.ops import images


@settings(max_examples=20, deadline=None)
@given(arrays.arrays(np.uint8, (5, 7, 3), elements=st.integers(0, 255)))
def test_uint8_images_pass_without_loss(image):
    codec = LumaCodec()
    decoded = codec.decode(codec.encode(images.to_tensor([image])).latent_dist.sample()).sample
    assert np.array_equal(images.to_images(decoded)[0], image)


def test_the_fourth_channel_is_luma():
    gray = torch.full((1, 3, 2, 2), 0.5)
    latents = LumaCodec().encode(gray).latent_dist.mode()
    assert latents.shape == (1, 4, 2, 2)
    assert torch.allclose(latents[:, 3], torch.tensor(0.5))


def test_decoding_is_the_least_squares_solution():
    latents = torch.randn(1, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    matrix = np.concatenate([np.eye(3), [LUMA]])
    expected = np.linalg.lstsq(matrix, latents.numpy()[0].reshape(4, -1), rcond=None)[0].reshape(3, 3, 3)
    assert np.allclose(LumaCodec().decode(latents).sample[0].numpy(), expected, atol=1e-5)


def test_no_random_numbers_are_used():
    rng = torch.Generator().manual_seed(3)
    before = rng.get_state()
    LumaCodec().encode(torch.rand(1, 3, 4, 4)).latent_dist.sample(rng)
    assert torch.equal(rng.get_state(), before)


def test_it_saves_and_loads_like_a_diffusers_model(tmp_path):
    LumaCodec().save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "diffusion_pytorch_model.safetensors"]
    loaded = LumaCodec.from_pretrained(tmp_path, use_safetensors=True)
    latents = torch.rand(1, 4, 4, 4)
    assert torch.equal(loaded.decode(latents).sample, LumaCodec().decode(latents).sample)


def test_it_has_the_calls_that_pipelines_make_on_an_autoencoder():
    ours, theirs = inspect.signature(LumaCodec.decode), inspect.signature(AutoencoderKL.decode)
    assert set(theirs.parameters) - {"z"} <= set(ours.parameters) | {"latents"}
    codec = LumaCodec()
    assert codec.dtype == torch.float32
    assert codec.device.type == "cpu"
    assert codec.decode(torch.rand(1, 4, 2, 2), return_dict=False)[0].shape == (1, 3, 2, 2)
