"""Folders of random weights with the architecture of the models that users load, small enough for a test."""

import re

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    PNDMScheduler,
    StableDiffusionInpaintPipeline,
    StableDiffusionXLInpaintPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from anony_pipeline.models.demo_pipeline import build_demo_pipeline

TEXT_WIDTH, SECOND_TEXT_WIDTH = 16, 32


def save_pipeline(family, folder, *, in_channels=9, safe=True):
    """Write a pipeline of ``sd15``, ``sd2``, ``sd2-v`` (v-prediction) or ``sdxl`` with random weights."""
    torch.manual_seed(0)
    tokenizer = build_demo_pipeline().tokenizer
    parts = {"vae": _vae(), "tokenizer": tokenizer, "unet": _unet(family, in_channels)}
    if family == "sdxl":
        pipeline = StableDiffusionXLInpaintPipeline(
            **parts,
            scheduler=DDIMScheduler(beta_schedule="scaled_linear", steps_offset=1),
            text_encoder=CLIPTextModel(_text(tokenizer)),
            text_encoder_2=CLIPTextModelWithProjection(_text(tokenizer, SECOND_TEXT_WIDTH)),
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


def _text(tokenizer, width=TEXT_WIDTH):
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=32,
        projection_dim=TEXT_WIDTH,
        eos_token_id=tokenizer.eos_token_id,
    )


def _vae():
    # As in published folders, SDXL's among them: what they don't say of upcasting is True.
    return AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
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
            cross_attention_dim=TEXT_WIDTH + SECOND_TEXT_WIDTH,
        )
    return UNet2DConditionModel(
        **shared,
        block_out_channels=(8, 8, 16, 16),
        cross_attention_dim=TEXT_WIDTH,
        # SD 1.5: eight heads everywhere, projected by convolutions; SD 2: heads of one width, projected linearly.
        attention_head_dim=8 if family == "sd15" else (1, 2, 4, 4),
        use_linear_projection=family != "sd15",
    )


UNET_NAMES = (
    (r"^conv_in\.", "input_blocks.0.0."),
    (r"^time_embedding\.linear_(\d)\.", lambda m: f"time_embed.{2 * int(m[1]) - 2}."),
    (r"^add_embedding\.linear_(\d)\.", lambda m: f"label_emb.0.{2 * int(m[1]) - 2}."),
    (r"^conv_norm_out\.", "out.0."),
    (r"^conv_out\.", "out.2."),
    (r"(resnets\.\d)\.norm1\.", r"\1.in_layers.0."),
    (r"(resnets\.\d)\.conv1\.", r"\1.in_layers.2."),
    (r"(resnets\.\d)\.time_emb_proj\.", r"\1.emb_layers.1."),
    (r"(resnets\.\d)\.norm2\.", r"\1.out_layers.0."),
    (r"(resnets\.\d)\.conv2\.", r"\1.out_layers.3."),
    (r"(resnets\.\d)\.conv_shortcut\.", r"\1.skip_connection."),
    (r"^mid_block\.resnets\.(\d)\.", lambda m: f"middle_block.{2 * int(m[1])}."),
    (r"^mid_block\.attentions\.0\.", "middle_block.1."),
    (
        r"^down_blocks\.(\d)\.(r|a)\w+\.(\d)\.",
        lambda m: f"input_blocks.{3 * int(m[1]) + int(m[3]) + 1}.{'ra'.find(m[2])}.",
    ),
    (r"^down_blocks\.(\d)\.downsamplers\.0\.conv\.", lambda m: f"input_blocks.{3 * int(m[1]) + 3}.0.op."),
    (r"^up_blocks\.(\d)\.(r|a)\w+\.(\d)\.", lambda m: f"output_blocks.{3 * int(m[1]) + int(m[3])}.{'ra'.find(m[2])}."),
)
VAE_NAMES = (
    (r"\.group_norm\.", ".norm."),
    (r"\.to_([qkv])\.", r".\1."),
    (r"\.to_out\.0\.", ".proj_out."),
    (r"conv_norm_out\.", "norm_out."),
    (r"conv_shortcut\.", "nin_shortcut."),
    (r"mid_block\.attentions\.0\.", "mid.attn_1."),
    (r"mid_block\.resnets\.(\d)\.", lambda m: f"mid.block_{int(m[1]) + 1}."),
    (r"down_blocks\.(\d)\.resnets\.(\d)\.", r"down.\1.block.\2."),
    (r"down_blocks\.(\d)\.downsamplers\.0\.", r"down.\1.downsample."),
    (r"up_blocks\.(\d)\.resnets\.(\d)\.", lambda m: f"up.{3 - int(m[1])}.block.{m[2]}."),
    (r"up_blocks\.(\d)\.upsamplers\.0\.", lambda m: f"up.{3 - int(m[1])}.upsample."),
)


OPEN_CLIP_NAMES = (
    (r"^text_model\.", ""),
    (r"^embeddings\.token_embedding\.", "token_embedding."),
    (r"^embeddings\.position_embedding\.weight", "positional_embedding"),
    (r"^final_layer_norm\.", "ln_final."),
    (r"^text_projection\.weight", "text_projection"),
    (r"^encoder\.layers\.", "transformer.resblocks."),
    (r"\.layer_norm(\d)\.", r".ln_\1."),
    (r"\.mlp\.fc1\.", ".mlp.c_fc."),
    (r"\.mlp\.fc2\.", ".mlp.c_proj."),
    (r"\.self_attn\.", ".attn."),
)


def save_single_file(pipeline, file):
    """Write the weights of an ``sd15``, ``sd2`` or ``sdxl`` pipeline in its original format, all in one file."""
    unet = pipeline.unet
    # An upsampler comes after the attention, where its block has one.
    places = [2 if hasattr(block, "attentions") else 1 for block in unet.up_blocks]
    upsampler = (
        r"^up_blocks\.(\d)\.upsamplers\.0\.",
        lambda m: f"output_blocks.{3 * int(m[1]) + 2}.{places[int(m[1])]}.",
    )
    state = {
        f"model.diffusion_model.{_renamed(name, (*UNET_NAMES, upsampler))}": value
        for name, value in unet.state_dict().items()
    }
    for name, value in pipeline.vae.state_dict().items():
        # The original's attention is made of convolutions of one pixel.
        is_attention = "attentions" in name and value.ndim == 2
        state[f"first_stage_model.{_renamed(name, VAE_NAMES)}"] = value[..., None, None] if is_attention else value
    if isinstance(pipeline, StableDiffusionXLInpaintPipeline):
        state |= _clip(pipeline.text_encoder, "conditioner.embedders.0.transformer.text_model.")
        state |= _open_clip(pipeline.text_encoder_2, "conditioner.embedders.1.model.")
    elif unet.config.use_linear_projection:
        state |= _open_clip(pipeline.text_encoder, "cond_stage_model.model.")
    else:
        state |= _clip(pipeline.text_encoder, "cond_stage_model.transformer.text_model.")
    save_file({name: value.contiguous() for name, value in state.items()}, file)


def _clip(encoder, prefix):
    return {f"{prefix}{name.removeprefix('text_model.')}": value for name, value in encoder.state_dict().items()}


def _open_clip(encoder, prefix):
    """The names of OpenCLIP, which keeps queries, keys and values in one tensor and the projection transposed."""
    state, joined = {}, {}
    for name, value in encoder.state_dict().items():
        made = _renamed(name, OPEN_CLIP_NAMES)
        if match := re.search(r"[qkv]_proj\.(weight|bias)$", made):
            joined.setdefault(f"{made[: match.start()]}in_proj_{match[1]}", {})[made[match.start()]] = value
        else:
            state[made] = value.T if made == "text_projection" else value
    state |= {name: torch.cat([parts[part] for part in "qkv"]) for name, parts in joined.items()}
    return {f"{prefix}{name}": value for name, value in state.items()}


def _renamed(name, table):
    for pattern, made in table:
        name = re.sub(pattern, made, name)
    return name
