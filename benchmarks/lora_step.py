"""A LoRA step of Stable Diffusion 1.5's inpainting architecture: ours, with and without kept latents, and plain loops.

Run:   python benchmarks/lora_step.py [--size 256] [--steps 3] [--device cpu]
Takes: about twelve minutes on two cores, and 8 GB of memory.

The plain loop is written like diffusers' `examples/text_to_image/train_text_to_image_lora.py`, extended to the nine
channels of an inpainting UNet: in each step it encodes the target, the masked image and the prompt, noises to a random
timestep, and compares the predicted noise. Ours fills the crop in one step from pure noise and compares pixels with the
target, so it decodes, and its gradient passes through the decoder. Like is compared with like by a plain loop that was
given the same loss: it encodes the masked image and the prompt, predicts from pure noise, decodes and compares pixels.
Rows say which autoencoder decodes (the full one, or the architecture of TAESD) and whether the latents were kept
(`training.mask_variants`). Same UNet, same LoRA, batch 1, fp32; weights are random, which changes no time.

Each row runs in a process of its own: `peak_gb` is its largest resident memory. On a CPU, rows are compared by
`cpu_seconds_a_step`, what the process itself computed over all threads: the machine may do other things, too.
"""

import argparse
import dataclasses
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    DDIMScheduler,
    StableDiffusionInpaintPipeline,
    UNet2DConditionModel,
)
from peft import LoraConfig
from transformers import CLIPTextConfig, CLIPTextModel

from anony_pipeline.models import lora
from anony_pipeline.models.demo_pipeline import build_demo_pipeline
from anony_pipeline.models.detector import build_detector
from anony_pipeline.models.generator import Generator
from anony_pipeline.structures.regions import Kind
from anony_pipeline.targets import faces
from anony_pipeline.training import batches, cache, joint, latents
from anony_pipeline.training.networks import Critics, Networks
from anony_pipeline.training.objective import Objective
from anony_pipeline.training.state import TrainingState
from anony_pipeline_tests.training import tiny

RESULT = Path(__file__).parent / "results" / "lora_step.json"
RANK = 16
LAYERS = (
    *(f"unet.down_blocks[{number}]" for number in range(3)),
    "unet.mid_block",
    *(f"unet.up_blocks[{number}]" for number in range(1, 4)),
)
DECODERS = ("full autoencoder", "tiny autoencoder")
ROWS = {
    "plain loop": ("plain", None, False),
    **{f"plain loop with our loss, {decoder}": ("plain", decoder, False) for decoder in DECODERS},
    **{f"ours, {decoder}": ("ours", decoder, False) for decoder in DECODERS},
    **{f"ours, {decoder}, kept latents": ("ours", decoder, True) for decoder in DECODERS},
}
"""Of each: whose loop, what decodes (None: the loss is on latents), and whether latents are kept."""


def build_sd15(device: torch.device) -> StableDiffusionInpaintPipeline:
    """Stable Diffusion 1.5 inpainting's parts in their published sizes, with random weights."""
    torch.manual_seed(0)
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            sample_size=64, in_channels=9, cross_attention_dim=768, attention_head_dim=8, layers_per_block=2
        )
        vae = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            latent_channels=4,
            sample_size=512,
        )
    for module in (unet, vae):
        module.to_empty(device=device)
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=0.02)
    tokenizer = build_demo_pipeline().tokenizer
    # CLIP ViT-L/14's text tower; the vocabulary's size does not change the time of an embedding.
    text = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=768, intermediate_size=3072, projection_dim=768,
        num_hidden_layers=12, num_attention_heads=12, max_position_embeddings=77, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    tokenizer.model_max_length = 77
    return StableDiffusionInpaintPipeline(
        vae=vae.eval(),
        text_encoder=CLIPTextModel(text).to(device).eval(),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


class Ours:
    """Our pretraining step on faces, with the distance of pixels alone."""

    def __init__(self, root: Path, size: int, device: torch.device, *, use_tiny: bool, keep: bool) -> None:
        changes = {
            "model__generator__face_size": size,
            "model__finetune__lora_rank": RANK,
            "model__finetune__learnable_layers": list(LAYERS),
            "training__batch_size": 1,
            "training__mask_variants": 1 if keep else 0,
            "loss__perceptual_weight": 0.0,
        }
        self.device, self.number = device, 0
        config = tiny.make_config(root, **changes)
        coco = tiny.make_coco(root, count=6, plates=False)
        records = faces.make_face_targets(config, coco, recognizer=tiny.ColorRecognizer()).records
        data = cache.build(config, coco, records)
        generator = Generator(
            build_sd15(torch.device("cpu")),
            prompts={Kind.FACE: "a face", Kind.PLATE: "a licence plate"},
            steps={Kind.FACE: 1, Kind.PLATE: 1},
            anchor_strength=0.4,
            base_id="sd15@random",
            tiny_vae=AutoencoderTiny() if use_tiny else None,
        ).to(device)
        generator.unet.to(memory_format=torch.channels_last)
        begin = time.perf_counter()
        kept = latents.build(config, data, generator)
        self.seconds_to_keep = (time.perf_counter() - begin) / len(data.samples[Kind.FACE]) if keep else None
        self.data = dataclasses.replace(data, latents=kept)
        lora.make_trainable(generator, config.model.finetune)
        self.state = TrainingState.fresh(config, "pretrain", Networks(generator.train(), None, build_detector()))
        self.objective = Objective(Critics(), None, config.loss, margin=0.0)
        self.trained = sum(value.numel() for value in lora.trainable_parameters(generator).values()) // 2

    def step(self) -> None:
        generator = self.state.networks.generator
        batch = batches.draw_batch(
            self.data, generator, size=1, seed=0, stream="pretrain", step=self.number, device=self.device
        )
        joint.step_generator(self.state, batch, self.objective)
        self.number += 1


class Plain:
    """The loop of diffusers' example, for nine channels, with its own loss or with a loss on the image."""

    def __init__(self, size: int, device: torch.device, decoder: str | None) -> None:
        pipeline = build_sd15(torch.device("cpu")).to(device)
        pipeline.vae.requires_grad_(False)
        pipeline.text_encoder.requires_grad_(False)
        self.unet = pipeline.unet.requires_grad_(False)
        layers = lora.resolve_layers(self.unet, LAYERS)
        self.unet.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, init_lora_weights="gaussian", target_modules=layers))
        self.parameters = [value for value in self.unet.parameters() if value.requires_grad]
        self.trained = sum(value.numel() for value in self.parameters)
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-4)
        self.pipeline, self.device = pipeline, device
        self.loss = self._on_noise if decoder is None else self._on_pixels
        self.decoder = AutoencoderTiny().to(device).requires_grad_(False) if decoder == DECODERS[1] else pipeline.vae
        self.images = torch.rand(1, 3, size, size, device=device) * 2 - 1
        self.masks = torch.zeros(1, 1, size, size, device=device)
        self.masks[..., size // 4 : -size // 4, size // 4 : -size // 4] = 1
        self.seconds_to_keep = None

    def step(self) -> None:
        self.loss().backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def _on_noise(self) -> torch.Tensor:
        scheduler = self.pipeline.scheduler
        clean = self._encode(self.images)
        noise = torch.randn_like(clean)
        timesteps = torch.randint(0, scheduler.config.num_train_timesteps, (len(clean),), device=self.device)
        predicted = self._predict(scheduler.add_noise(clean, noise, timesteps), timesteps)
        return F.mse_loss(predicted.float(), noise.float())

    def _on_pixels(self) -> torch.Tensor:
        height, width = (edge // self.pipeline.vae_scale_factor for edge in self.images.shape[-2:])
        noise = torch.randn(len(self.images), 4, height, width, device=self.device)
        timesteps = torch.full(
            (len(noise),), self.pipeline.scheduler.config.num_train_timesteps - 1, device=self.device
        )
        alpha = self.pipeline.scheduler.alphas_cumprod.to(self.device)[timesteps].view(-1, 1, 1, 1)
        clean = (noise - (1 - alpha).sqrt() * self._predict(noise, timesteps)) / alpha.sqrt()
        made = self.decoder.decode(clean / self.decoder.config.scaling_factor).sample
        return ((made.clamp(-1, 1) - self.images).abs() * self.masks).sum() / (3 * self.masks.sum())

    @torch.no_grad()
    def _encode(self, images: torch.Tensor) -> torch.Tensor:
        vae = self.pipeline.vae
        return vae.encode(images).latent_dist.sample() * vae.config.scaling_factor

    def _predict(self, noisy: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        masked, small = self._encode(self.images * (self.masks < 0.5)), F.interpolate(self.masks, size=noisy.shape[-2:])
        with torch.no_grad():
            tokens = self.pipeline.tokenizer(
                ["a face"], padding="max_length", truncation=True, max_length=77, return_tensors="pt"
            )
            text = self.pipeline.text_encoder(tokens.input_ids.to(self.device))[0]
        return self.unet(torch.cat([noisy, small, masked], dim=1), timesteps, text).sample


def measured(row: str, size: int, steps: int, device: torch.device) -> dict:
    whose, decoder, keep = ROWS[row]
    with tempfile.TemporaryDirectory() as folder:
        if whose == "ours":
            loop = Ours(Path(folder), size, device, use_tiny=decoder == DECODERS[1], keep=keep)
        else:
            loop = Plain(size, device, decoder)
        times, cpu_times = [], []
        for _ in range(steps + 1):
            begin, cpu_begin = time.perf_counter(), time.process_time()
            loop.step()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            times.append(time.perf_counter() - begin)
            cpu_times.append(time.process_time() - cpu_begin)
    seconds = statistics.median(times[1:])
    on_gpu = device.type == "cuda"
    peak = (
        torch.cuda.max_memory_allocated(device) if on_gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    )
    found = {"seconds_a_step": round(seconds, 2), "images_per_second": round(1 / seconds, 4)}
    if not on_gpu:
        found["cpu_seconds_a_step"] = round(statistics.median(cpu_times[1:]), 2)
    found |= {"fastest_and_slowest_step": [round(min(times[1:]), 2), round(max(times[1:]), 2)]}
    found |= {"peak_gb": round(peak / 1e9, 2), "trained_parameters": loop.trained}
    if loop.seconds_to_keep is not None:
        found["seconds_once_a_crop_to_keep"] = round(loop.seconds_to_keep, 2)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--row", choices=ROWS, help="Measure this one alone, and print it.")
    options = parser.parse_args()
    device = torch.device(options.device)
    if options.row:
        print(json.dumps(measured(options.row, options.size, options.steps, device)))
        return
    rows = {}
    for row in ROWS:
        command = [sys.executable, __file__, "--row", row, "--size", str(options.size), "--steps", str(options.steps)]
        done = subprocess.run([*command, "--device", options.device], stdout=subprocess.PIPE, text=True, check=True)
        rows[row] = json.loads(done.stdout.splitlines()[-1])
        print(row, rows[row], flush=True)
    # On a CPU other processes may take their share of the time on the clock.
    cost = "seconds_a_step" if device.type == "cuda" else "cpu_seconds_a_step"
    result = {
        "benchmark": "lora_step",
        "machine": {
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "load_average": round(os.getloadavg()[0], 1),
        },
        "setting": {
            "architecture": "Stable Diffusion 1.5 inpainting, random weights",
            "size_px": options.size,
            "batch": 1,
            "precision": "fp32",
            "lora_rank": RANK,
        },
        "steps": options.steps,
        "rows": rows,
        "compared_by": cost,
        "speed_over_plain_loop": {row: round(rows["plain loop"][cost] / found[cost], 2) for row, found in rows.items()},
        "speed_over_plain_loop_with_our_loss": {
            row: round(rows[f"plain loop with our loss, {decoder}"][cost] / rows[row][cost], 2)
            for row, (whose, decoder, _) in ROWS.items()
            if whose == "ours"
        },
        "kept_over_not_kept": {
            kind: round(rows[f"ours, {kind}"][cost] / rows[f"ours, {kind}, kept latents"][cost], 2) for kind in DECODERS
        },
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
