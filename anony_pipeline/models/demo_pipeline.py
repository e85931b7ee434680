"""The demo's base generator: a small UNet in the stock inpainting pipeline, small enough for two CPU cores.

Nothing in it is downloaded. The UNet's weights are shipped (`anony_pipeline.fitting.generator` makes them); the text
encoder is fixed by this code alone: with two constant prompts it only has to give two different, constant embeddings.
"""

import json
import tempfile
import zlib
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler, StableDiffusionInpaintPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from anony_pipeline.models.codec import LumaCodec

TEXT_WIDTH = 32
TEXT_LENGTH = 32
START, END = "<|startoftext|>", "<|endoftext|>"


def build_demo_unet() -> UNet2DConditionModel:
    """The demo's UNet with random weights: 9 -> 4 channels, 4.7 million parameters, predicting the clean latents."""
    return UNet2DConditionModel(
        sample_size=128,
        in_channels=9,
        out_channels=4,
        block_out_channels=(16, 32, 64, 96, 128),
        down_block_types=("DownBlock2D",) * 4 + ("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",) + ("UpBlock2D",) * 4,
        layers_per_block=1,
        norm_num_groups=8,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=8,
    )


def build_demo_scheduler() -> DDIMScheduler:
    """Stable Diffusion's noise schedule for a network that predicts the clean latents."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="sample",
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,
    )


def build_demo_pipeline() -> StableDiffusionInpaintPipeline:
    """Put the demo's parts into the stock pipeline; the UNet's weights are random (see `generator.load_generator`)."""
    return StableDiffusionInpaintPipeline(
        vae=LumaCodec(),
        text_encoder=_text_encoder(),
        tokenizer=_tokenizer(),
        unet=build_demo_unet(),
        scheduler=build_demo_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _tokenizer() -> CLIPTokenizer:
    """A tokenizer of lower-case ASCII characters, without merges."""
    characters = [chr(code) for code in range(33, 127)]
    tokens = [*characters, *(f"{character}</w>" for character in characters), START, END]
    with tempfile.TemporaryDirectory() as folder:
        vocabulary, merges = Path(folder) / "vocab.json", Path(folder) / "merges.txt"
        vocabulary.write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
        merges.write_text("#version: 0.2\n")
        return CLIPTokenizer.from_pretrained(folder, model_max_length=TEXT_LENGTH)


def _text_encoder() -> CLIPTextModel:
    vocabulary = 2 * (127 - 33) + 2
    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=TEXT_WIDTH,
        intermediate_size=2 * TEXT_WIDTH,
        projection_dim=TEXT_WIDTH,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=TEXT_LENGTH,
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,
        pad_token_id=vocabulary - 1,
    )
    encoder = CLIPTextModel(config)
    # The library's own initialization may change from version to version, and the UNet was trained with these
    # embeddings.
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            if parameter.ndim > 1:
                own_name = name.removeprefix("text_model.")
                rng = np.random.default_rng(zlib.crc32(own_name.encode()))
                scale = 1.0 if "embedding" in own_name else parameter.shape[-1] ** -0.5
                parameter.copy_(torch.from_numpy(rng.normal(0, scale, parameter.shape)))
            else:
                parameter.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
    return encoder.eval()
