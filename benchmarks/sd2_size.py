"""The generator at Stable Diffusion 2's size with random weights: LoRA steps, memory, and generation of crops.

Run:   python -m benchmarks.sd2_size [--device cuda] [--size sd2]; python -m benchmarks.sd2_size --compiled
Takes: about a minute on a large GPU; `--size tiny --device cpu` tries the code in as long. `--compiled` adds a row to
       the result, in as long again.

Random weights take the time and memory of trained ones. What is compared is measured in one run, in turn:

- the UNet's forward pass as a share of the card's bf16 matrix rate, and a LoRA step on cached latents as one;
- that step against itself without kept latents, and against a plain loop as diffusers' train_text_to_image_lora.py
  writes it, extended to nine channels: the same model, adapters, batch and precision, with both images and the prompt
  encoded in each step, and the weights in the layout that they are loaded in (ours are `channels_last`, as
  `load_generator` has them);
- where that step's time goes: to kernels that multiply matrices, to others, or to none while the host launches them;
- the step on kept latents with compiled blocks, `training.torch_compile`;
- a pass of the generator through the full autoencoder and back in fp16, batch 2, under a T4's memory;
- crops filled in one step: in a batch, with either autoencoder, against the stock pipeline called crop by crop.
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, AutoencoderTiny, StableDiffusionInpaintPipeline, UNet2DConditionModel
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPTextConfig, CLIPTextModel

from anony_pipeline.config.schema import Finetune
from anony_pipeline.models import lora
from anony_pipeline.models.demo_pipeline import build_demo_pipeline
from anony_pipeline.models.generator import LAST_TIMESTEP, Generator
from anony_pipeline.structures.regions import Kind
from anony_pipeline.training import networks

RESULT = Path(__file__).parent / "results" / "sd2_size.json"
T4_BYTES = 16e9
SIZES = {
    # UNet channels, its heads, the autoencoder's channels, text width, text layers, crop edge, batch
    "sd2": ((320, 640, 1280, 1280), (5, 10, 20, 20), (128, 256, 512, 512), 1024, 23, 512, 8),
    "tiny": ((32, 64, 64, 64), (2, 4, 4, 4), (32, 32, 32, 32), 64, 1, 64, 2),
}
MATRIX = ("gemm", "nvjet", "xmma", "cutlass", "fprop", "dgrad", "wgrad", "convolve", "flash", "fmha", "sdpa")
"""Parts of the names of kernels that multiply matrices: products, convolutions and attention."""
Share = Callable[[float, float], float]
"""Of the measured matrix rate, of so many operations in so many seconds."""
LAYERS = (*(f"unet.down_blocks[{i}]" for i in range(4)), "unet.mid_block", *(f"unet.up_blocks[{i}]" for i in range(4)))


def build(size: str, device: torch.device) -> StableDiffusionInpaintPipeline:
    """SD2 inpainting's architecture (or a small one of its kind) with random weights, made on the device."""
    channels, heads, vae_channels, text, text_layers, edge, _ = SIZES[size]
    pipeline = build_demo_pipeline()
    with device:
        unet = UNet2DConditionModel(
            sample_size=edge // 8,
            in_channels=9,
            out_channels=4,
            block_out_channels=channels,
            attention_head_dim=heads,
            cross_attention_dim=text,
            use_linear_projection=True,
        )
        vae = AutoencoderKL(
            block_out_channels=vae_channels,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            latent_channels=4,
            layers_per_block=2,
            sample_size=edge,
        )
        tokenizer = pipeline.tokenizer
        encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=text,
                intermediate_size=4 * text,
                num_hidden_layers=text_layers,
                num_attention_heads=max(2, text // 64),
                max_position_embeddings=tokenizer.model_max_length,
                eos_token_id=tokenizer.eos_token_id,
            )
        )
    return StableDiffusionInpaintPipeline(
        vae=vae,
        text_encoder=encoder.cpu().eval(),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=pipeline.scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


class Measured:
    """A generator at a size, and what is timed with it."""

    def __init__(self, size: str, device: torch.device, repeats: int) -> None:
        torch.manual_seed(0)
        self.device, self.repeats = device, repeats
        self.edge, self.batch = SIZES[size][-2:]
        self.pipeline = build(size, device)
        tiny = AutoencoderTiny().to(device)
        self.generator = Generator(
            self.pipeline,
            prompts={Kind.FACE: "a face", Kind.PLATE: "a licence plate"},
            steps=dict.fromkeys(Kind, 1),
            anchor_strength=0.4,
            base_id="random",
            tiny_vae=tiny,
        ).to(device)
        self.cast(torch.bfloat16 if device.type == "cuda" else torch.float32)
        self.optimizer: torch.optim.Optimizer | None = None
        self.arrange(torch.channels_last)

    def arrange(self, layout: torch.memory_format) -> None:
        """Keep the UNet's weights in a layout, and forget the optimizer's averages, which are in the former one."""
        self.generator.unet.to(memory_format=layout)
        if self.optimizer is not None:
            self.optimizer.zero_grad(set_to_none=True)
            self.optimizer.state.clear()

    def cast(self, dtype: torch.dtype) -> None:
        """Keep the frozen weights in a dtype."""
        self.dtype = dtype
        for part in (self.generator.unet, self.generator.vae, self.generator.tiny_vae, self.pipeline.text_encoder):
            part.to(self.device, dtype)

    def add_adapters(self) -> None:
        """LoRA of rank 16 on every block, in float32; only the first adapter learns here."""
        settings = Finetune(lora_rank=16, lora_alpha=16, learnable_layers=LAYERS)
        lora.make_trainable(self.generator, settings)
        lora.activate(self.generator, Kind.FACE)
        weights = [p for p in self.generator.unet.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(weights, 1e-4, fused=self.device.type == "cuda")

    def inputs(self, count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Images, masks and noise."""
        images = torch.rand(count, 3, self.edge, self.edge, device=self.device) * 2 - 1
        masks = torch.zeros(count, 1, self.edge, self.edge, device=self.device)
        masks[..., self.edge // 4 : -self.edge // 4, self.edge // 4 : -self.edge // 4] = 1
        noise = torch.randn(self.generator.noise_shape(count, (self.edge, self.edge)), device=self.device)
        return images, masks, noise

    def seconds(self, action) -> float:
        """The median of some calls after two that warm up."""
        times = []
        for _ in range(self.repeats + 2):
            self._wait()
            begin = time.perf_counter()
            action()
            self._wait()
            times.append(time.perf_counter() - begin)
        return statistics.median(times[2:])

    def spent(self, action) -> dict[str, float] | None:
        """Shares of a call's time on the clock: in kernels that multiply matrices, in others, and in none."""
        if self.device.type != "cuda":
            return None
        taken = self.seconds(action)
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
            action()
            self._wait()
        kernels = [e for e in seen.key_averages() if e.device_type.name == "CUDA" and not e.is_user_annotation]
        matrix = other = 0.0
        for kernel in kernels:
            if any(part in kernel.key.lower() for part in MATRIX):
                matrix += kernel.self_device_time_total / 1e6
            else:
                other += kernel.self_device_time_total / 1e6
        shares = {"matrix_kernels": matrix / taken, "other_kernels": other / taken}
        return {name: round(share, 3) for name, share in {**shares, "no_kernel": 1 - sum(shares.values())}.items()}

    def peak_gb(self, action) -> float | None:
        """Highest memory in use during a call, weights included."""
        if self.device.type != "cuda":
            return None
        torch.cuda.reset_peak_memory_stats(self.device)
        action()
        self._wait()
        return round(torch.cuda.max_memory_allocated(self.device) / 1e9, 2)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def autocast(self) -> torch.autocast:
        """Half-precision computation where the frozen weights are halves."""
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32)

    def matrix_rate(self) -> float:
        """Bf16 matrix products, FLOP/s."""
        edge = 8192 if self.device.type == "cuda" else 1024
        a, b = (torch.randn(edge, edge, device=self.device, dtype=self.dtype) for _ in range(2))
        return 2 * edge**3 / self.seconds(lambda: a @ b)

    def unet_forward(self) -> dict:
        """The UNet's forward pass alone."""
        images, masks, noise = self.inputs(self.batch)
        steps = torch.full((self.batch,), LAST_TIMESTEP, device=self.device)
        with torch.no_grad(), self.autocast():
            condition = self.generator.condition(images, masks)

            def forward():
                return self.generator.predict_clean(noise, steps, condition, Kind.FACE)

            with FlopCounterMode(display=False) as counter:
                forward()
            return {"flop": counter.get_total_flops(), "seconds": self.seconds(forward)}

    def cached_step(self):
        """A LoRA step on latents and prompt embeddings that were computed before."""
        images, masks, noise = self.inputs(self.batch)
        with torch.no_grad(), self.autocast():
            condition = self.generator.condition(images, masks)
            latents = self.generator.encode(images)

        def step():
            steps = torch.randint(0, LAST_TIMESTEP, (self.batch,), device=self.device)
            with self.autocast():
                clean = self.generator.predict_clean(
                    self.generator.add_noise(latents, noise, steps), steps, condition, Kind.FACE
                )
            self._learn(F.mse_loss(clean.float(), latents.float()))

        return step

    def uncached_step(self):
        """The same on images: what is kept otherwise is encoded each time, the prompt apart."""
        images, masks, noise = self.inputs(self.batch)

        def step():
            steps = torch.randint(0, LAST_TIMESTEP, (self.batch,), device=self.device)
            with torch.no_grad(), self.autocast():
                condition = self.generator.condition(images, masks)
                latents = self.generator.encode(images)
            with self.autocast():
                clean = self.generator.predict_clean(
                    self.generator.add_noise(latents, noise, steps), steps, condition, Kind.FACE
                )
            self._learn(F.mse_loss(clean.float(), latents.float()))

        return step

    def plain_step(self):
        """The same step as diffusers' script takes it: images, masked images and prompt are encoded each time."""
        images, masks, noise = self.inputs(self.batch)
        vae, encoder, unet = self.pipeline.vae, self.pipeline.text_encoder, self.pipeline.unet
        scheduler = self.pipeline.scheduler
        tokens = self.pipeline.tokenizer(
            ["a face"] * self.batch, padding="max_length", truncation=True, return_tensors="pt"
        ).input_ids.to(self.device)

        def step():
            with torch.no_grad():
                latents = vae.encode(images.to(self.dtype)).latent_dist.sample() * vae.config.scaling_factor
                hidden = (images * (1 - masks)).to(self.dtype)
                masked = vae.encode(hidden).latent_dist.sample() * vae.config.scaling_factor
                text = encoder(tokens).last_hidden_state
            steps = torch.randint(0, LAST_TIMESTEP, (self.batch,), device=self.device)
            noisy = scheduler.add_noise(latents, noise.to(self.dtype), steps)
            small = F.interpolate(masks, size=latents.shape[-2:]).to(self.dtype)
            with self.autocast():
                output = unet(torch.cat([noisy, small, masked], 1), steps, text).sample
            self._learn(F.mse_loss(output.float(), latents.float()))

        return step

    def _learn(self, loss: torch.Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.optimizer.param_groups[0]["params"], 1.0)
        self.optimizer.step()

    def pixel_step(self, count: int):
        """A pass of the generator to pixels and back, as training takes it."""
        images, masks, noise = self.inputs(count)
        scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)

        def step():
            filled = self.generator.fill(images, masks, Kind.FACE, noise=noise)
            self.optimizer.zero_grad(set_to_none=True)
            scaler.scale((filled - images).abs().mean()).backward()
            scaler.step(self.optimizer)
            scaler.update()

        return step

    def under_a_t4(self) -> dict:
        """Fp16, batch 2, checkpointed, with the process kept to 16 GB."""
        self.cast(torch.float16)
        for weight in self.optimizer.param_groups[0]["params"]:
            weight.data = weight.data.float()
        self.generator.unet.train().enable_gradient_checkpointing()
        self.generator.vae.enable_gradient_checkpointing()
        total = torch.cuda.get_device_properties(self.device).total_memory
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(T4_BYTES / total)
        try:
            self.generator.eval()
            self.generator.unet.train()
            step = self.pixel_step(2)
            return {"fits": True, "peak_gb": self.peak_gb(step), "seconds": round(self.seconds(step), 4)}
        except torch.cuda.OutOfMemoryError as error:
            return {"fits": False, "error": str(error).splitlines()[0]}
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)

    def generation(self) -> dict:
        """Crops a second, filled in one step."""
        count = 2 * self.batch
        images, masks, noise = self.inputs(count)
        generator, pipeline = self.generator, self.pipeline
        pipeline.set_progress_bar_config(disable=True)
        rows = {}
        with torch.inference_mode(), lora.without_adapters(generator):
            for name, training in (("full_autoencoder", False), ("tiny_autoencoder", True)):
                generator.train(training)
                taken = self.seconds(lambda: generator.fill(images, masks, Kind.FACE, noise=noise))
                rows[name] = round(count / taken, 2)
            generator.eval()
            unit = ((images + 1) / 2).cpu()

            def one():
                pipeline(
                    prompt="a face",
                    image=unit[:1],
                    mask_image=masks[:1].cpu(),
                    height=self.edge,
                    width=self.edge,
                    num_inference_steps=1,
                    strength=1.0,
                    guidance_scale=1.0,
                    output_type="pt",
                )

            rows["stock_pipeline_one_by_one"] = round(1 / self.seconds(one), 2)
        return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--size", default="sd2", choices=SIZES)
    parser.add_argument("--repeats", type=int, default=6)
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--compiled", action="store_true", help="add the row with compiled blocks to --out")
    options = parser.parse_args()
    device = torch.device(options.device)
    if device.type == "cuda":
        torch.cuda.set_device(device.index or 0)  # the one whose memory is limited below
    work = Measured(options.size, device, options.repeats)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    result = {
        "benchmark": "sd2_size",
        "machine": {"device": name, "torch": torch.__version__},
        "setting": {"size": options.size, "crop_px": work.edge, "batch": work.batch, "lora_rank": 16},
    }
    result |= {"dtype": str(work.dtype).removeprefix("torch."), "matrix_flop_per_second": work.matrix_rate()}

    def note(key, value) -> None:
        result[key] = value
        print(json.dumps({key: value}), flush=True)
        options.out.write_text(json.dumps(result, indent=1) + "\n")

    rate = result["matrix_flop_per_second"]

    def share(flop: float, seconds: float) -> float:
        return round(flop / seconds / rate, 3)

    if options.compiled:
        result = json.loads(options.out.read_text())
        note("lora_step_compiled", compiled(work, share) | {"matrix_flop_per_second": rate})
        return
    forward = work.unet_forward()
    note("unet_forward", {**forward, "share_of_matrix_rate": share(forward["flop"], forward["seconds"])})
    note("crops_per_second", work.generation())
    work.add_adapters()
    note("lora_step", lora_steps(work, share))
    if device.type == "cuda":
        note("t4_memory_fp16_batch_2", work.under_a_t4())
    note("load_average_at_the_end", round(os.getloadavg()[0], 1))


def lora_steps(work: Measured, share: Share) -> dict:
    """Kept latents, our own without, and the plain loop."""
    steps = {"cached": work.cached_step(), "uncached": work.uncached_step()}
    with FlopCounterMode(display=False) as counter:
        steps["cached"]()
    seconds = {name: work.seconds(step) for name, step in steps.items()}
    peaks = {name: work.peak_gb(step) for name, step in steps.items()}
    spent = work.spent(steps["cached"])
    work.arrange(torch.contiguous_format)
    plain = work.plain_step()
    seconds["plain"], peaks["plain"] = work.seconds(plain), work.peak_gb(plain)
    work.arrange(torch.channels_last)
    return {
        **{f"images_per_second_{name}": round(work.batch / taken, 2) for name, taken in seconds.items()},
        "ratio": round(seconds["plain"] / seconds["cached"], 3),
        "cached_over_uncached": round(seconds["uncached"] / seconds["cached"], 3),
        "share_of_matrix_rate": share(counter.get_total_flops(), seconds["cached"]),
        "time_cached": spent,
        **{f"peak_gb_{name}": peak for name, peak in peaks.items()},
    }


def compiled(work: Measured, share: Share) -> dict:
    """A step on kept latents with compiled blocks; what it computes is counted before."""
    work.add_adapters()
    step = work.cached_step()
    with FlopCounterMode(display=False) as counter:
        step()
    begin = time.perf_counter()
    networks.compile_blocks(work.generator)
    step()
    once = time.perf_counter() - begin
    seconds = work.seconds(step)
    return {
        "images_per_second_cached": round(work.batch / seconds, 2),
        "share_of_matrix_rate": share(counter.get_total_flops(), seconds),
        "time_cached": work.spent(step),
        "peak_gb_cached": work.peak_gb(step),
        "seconds_to_compile": round(once, 1),
    }


if __name__ == "__main__":
    main()
