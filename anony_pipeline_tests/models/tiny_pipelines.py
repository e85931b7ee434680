"""Folders of random weights with the architecture of the models that users load, small enough for a test."""

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    PNDMScheduler,
    StableDiffusionInpaintPipeline,
    StableDiffusionXLInpaintPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from anony_pipeline.models.demo_pipeline import build_demo_pipeline

TEXT_WIDTH = 16


def save_pipeline(family, folder, *, in_channels=9, safe=True):
    """Write a pipeline of ``sd15``, ``sd2``, ``sd2-v`` (v-prediction) or ``sdxl`` with random weights."""
    torch.manual_seed(0)
    tokenizer = build_demo_pipeline().tokenizer
    parts = {"vae": _vae(force_upcast=family == "sdxl"), "tokenizer": tokenizer, "unet": _unet(family, in_channels)}
    if family == "sdxl":
        pipeline = StableDiffusionXLInpaintPipeline(
            **parts,
            scheduler=DDIMScheduler(beta_schedule="scaled_linear", steps_offset=1),
            text_encoder=CLIPTextModel(_text(tokenizer)),
            text_encoder_2=CLIPTextModelWithProjection(_text(tokenizer)),
            tokenizer_2=tokenizer,
        )
    else:
        pipeline = StableDiffusionInpaintPipeline(
            **parts,
            # The published folders name other schedulers than the one that few steps need.
            scheduler=PNDMScheduler(
                beta_schedule="scaled_linear",
                skip_prk_steps=True,
                steps_offset=1,
                prediction_type="v_prediction" if family == "sd2-v" else "epsilon",
            ),
            text_encoder=CLIPTextModel(_text(tokenizer)),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    pipeline.save_pretrained(folder, safe_serialization=safe)
    return folder


def _text(tokenizer):
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=32,
        projection_dim=TEXT_WIDTH,
        eos_token_id=tokenizer.eos_token_id,
    )


def _vae(force_upcast):
    return AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        force_upcast=force_upcast,
    )


def _unet(family, in_channels):
    shared = {
        "in_channels": in_channels,
        "out_channels": 4,
        "sample_size": 16,
        "layers_per_block": 2,
        "norm_num_groups": 4,
    }
    if family == "sdxl":
        # SDXL: three blocks, none of attention at the finest, size and pooled text as further conditions.
        return UNet2DConditionModel(
            **shared,
            block_out_channels=(8, 16, 16),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 1, 2),
            attention_head_dim=(2, 4, 4),
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + TEXT_WIDTH,
            cross_attention_dim=2 * TEXT_WIDTH,
        )
    return UNet2DConditionModel(
        **shared,
        block_out_channels=(8, 8, 16, 16),
        cross_attention_dim=TEXT_WIDTH,
        # SD 1.5: eight heads everywhere, projected by convolutions; SD 2: heads of one width, projected linearly.
        attention_head_dim=8 if family == "sd15" else (1, 2, 4, 4),
        use_linear_projection=family != "sd15",
    )
