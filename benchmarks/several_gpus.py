"""Training by one process and by several, one a GPU: the same curves, more images a second, less memory a GPU.

Run:   python -m benchmarks.several_gpus measure
       accelerate launch --multi_gpu --num_processes 2 -m benchmarks.several_gpus measure
       python -m benchmarks.several_gpus compare
       (with `--size tiny --device cpu`, and torchrun --standalone --nproc-per-node 2, it tries the code on a CPU)
Takes: about two minutes a `measure` on large GPUs. It needs a checkout and the package's dependencies, no network and
       no data. Parts are kept in `--work`: they may be measured one by one, and one that fails stops no other.

- `curves`: the demo's joint training, 20 steps in fp32 without TF32, by processes that share a batch, and by one that
  takes the same passes in turn (`training.accumulation`). Kernels are deterministic where torch has such; one process
  does it twice, which says what is left of chance. `double` computes in double precision, where rounding says nothing.
- `rates`: LoRA steps at Stable Diffusion 2's size, 512 px, bf16, on kept latents, with random weights: images a second
  with the same batch on each GPU.
- `memory`: LoRA steps of SDXL's architecture at its size with random weights, the same batch and passes, with all
  weights on each GPU and with FSDP (`training.fsdp`).
"""

import argparse
import contextlib
import dataclasses
import json
import os
import platform
import shutil
import statistics
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    DDIMScheduler,
    StableDiffusionXLInpaintPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from anony_pipeline.config.schema import Config
from anony_pipeline.datasets import loaders, raw, unify
from anony_pipeline.models import lora
from anony_pipeline.models.demo_pipeline import build_demo_pipeline
from anony_pipeline.models.detector import load_shipped_detector
from anony_pipeline.models.generator import Generator
from anony_pipeline.runtime import processes
from anony_pipeline.runtime.device import choose_device, choose_dtype
from anony_pipeline.runtime.processes import Team
from anony_pipeline.structures.regions import Kind
from anony_pipeline.targets.faces import make_face_targets
from anony_pipeline.training import batches, journal, loop, networks, validation
from anony_pipeline.training.networks import Networks
from anony_pipeline_tests.training import tiny
from benchmarks import ablation, sd2_size

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "several_gpus.json"
STEPS, NEAR = 20, 1e-4
PASSES = 2
"""Of a step, over all processes: rounding is the same where they are."""
NOT_COMPARED = ("step", "seconds", "crops_per_second")
SDXL = {
    # UNet channels, heads, blocks of attention, width of both texts, the autoencoder's channels
    "real": ((320, 640, 1280), (5, 10, 20), (1, 2, 10), (768, 1280), (128, 256, 512, 512)),
    "tiny": ((32, 32, 64), (2, 2, 4), (1, 1, 2), (32, 64), (32, 32, 32, 32)),
}
PARTS = ("curves", "memory", "rates", "double")


# --- models of real size with random weights --------------------------------------------------------------------------


def sdxl_unet(size: str) -> UNet2DConditionModel:
    """SDXL inpainting's UNet."""
    channels, heads, depth, texts, _ = SDXL[size]
    return UNet2DConditionModel(
        sample_size=128,
        in_channels=9,
        out_channels=4,
        block_out_channels=channels,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=depth,
        attention_head_dim=heads,
        use_linear_projection=True,
        cross_attention_dim=sum(texts),
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=6 * 256 + texts[1],
    )


def build_sdxl(size: str, device: torch.device, dtype: torch.dtype) -> StableDiffusionXLInpaintPipeline:
    """SDXL inpainting's UNet and autoencoder, made on the device; of the text encoders the widths, and one layer."""
    *_, texts, vae_channels = SDXL[size]
    tokenizer = build_demo_pipeline().tokenizer
    with torch.device("meta"):
        unet = sdxl_unet(size)
        vae = AutoencoderKL(
            block_out_channels=vae_channels,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            latent_channels=4,
            sample_size=1024,
            scaling_factor=0.13025,
        )
    # The autoencoder overflows in half precision, and stays in float32, as `load_generator` has it.
    for module, wanted in ((unet.to(dtype), device), (vae, device)):
        module.to_empty(device=wanted)
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=0.02)

    def text(width: int) -> CLIPTextConfig:
        return CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=1,
            num_attention_heads=max(2, width // 64),
            max_position_embeddings=tokenizer.model_max_length,
            projection_dim=width,
            eos_token_id=tokenizer.eos_token_id,
        )

    return StableDiffusionXLInpaintPipeline(
        vae=vae.eval(),
        text_encoder=CLIPTextModel(text(texts[0])).eval(),
        text_encoder_2=CLIPTextModelWithProjection(text(texts[1])).eval(),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=unet,
        scheduler=DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, steps_offset=1),
        add_watermarker=False,
    )


def networks_of(family: str, size: str, config: Config, device: torch.device) -> Networks:
    """A generator of the size with adapters, and the shipped detector; the same in each process."""
    torch.manual_seed(0)
    dtype = choose_dtype(config.precision, device)
    if family == "sd2":
        pipeline = sd2_size.build("sd2" if size == "real" else "tiny", device)
        pipeline.vae.to(dtype)
    else:
        pipeline = build_sdxl(size, device, dtype)
    generator = Generator(
        pipeline,
        prompts={Kind.FACE: "a face", Kind.PLATE: "a licence plate"},
        steps={Kind.FACE: 1, Kind.PLATE: 1},
        anchor_strength=0.4,
        base_id=f"{family}@random",
        tiny_vae=AutoencoderTiny().to(dtype),
    )
    generator.unet.to(dtype)
    generator.to(device)
    generator.unet.to(memory_format=torch.channels_last)
    torch.manual_seed(1)
    lora.make_trainable(generator, config.model.finetune)
    return Networks(generator.train(), None, load_shipped_detector(device=str(device)))


class Probe:
    """Asked after each step, as `should_stop` is: when it ended, and the most memory of the steps after the first."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.ends = device, list[float]()
        self.held_gb = self.peak_gb = 0.0

    def __call__(self) -> bool:
        on_gpu = self.device.type == "cuda"
        if on_gpu:
            torch.cuda.synchronize(self.device)
        self.ends.append(time.perf_counter())
        if on_gpu and len(self.ends) == 1:
            torch.cuda.reset_peak_memory_stats(self.device)
            self.held_gb = torch.cuda.memory_allocated(self.device) / 1e9
        elif on_gpu:
            self.peak_gb = torch.cuda.max_memory_allocated(self.device) / 1e9
        return False

    def seconds(self) -> float:
        """Of a step; the first ones warm up."""
        spans = [after - before for before, after in zip(self.ends, self.ends[1:], strict=False)]
        return statistics.median(spans[len(spans) // 4 :])


class Setting(NamedTuple):
    """Of LoRA steps: crops in all, over how many passes, with FSDP, how many, and whether latents are kept."""

    batch: int
    passes: int
    fsdp: bool
    steps: int
    keep: bool = True


def train_large(family: str, size: str, team: Team, folder: Path, setting: Setting) -> dict[str, Any]:
    """LoRA steps on faces alone, by the trainer itself."""
    edge = 512 if size == "real" else 64
    blocks = 4 if family == "sd2" else 3
    config = tiny.make_config(
        folder / "data",
        device=team.device.type,
        precision="bf16",
        paths__outputs=str(folder / "outputs"),
        paths__private=str(folder / "outputs" / "private"),
        model__generator__face_size=edge,
        model__discriminator__enabled=False,
        model__finetune__lora_rank=16,
        model__finetune__learnable_layers=[
            *(f"unet.down_blocks[{number}]" for number in range(blocks)),
            "unet.mid_block",
            *(f"unet.up_blocks[{number}]" for number in range(blocks)),
        ],
        training__pretrain_steps=setting.steps,
        training__batch_size=setting.batch,
        training__accumulation=setting.passes // team.size,
        training__mask_variants=int(setting.keep),
        training__fsdp=setting.fsdp,
    )
    with team.first_goes_ahead():
        path = folder / "data" / "unified_train.json"
        if not path.exists():
            tiny.make_coco(folder / "data", count=6, plates=False)
    probe = Probe(team.device)
    with contextlib.ExitStack() as stack:
        for place, name, value in (
            (loaders, "open_split", lambda config, split: tiny.coco.load(path)),
            (unify, "ensure_unified", lambda config: None),
            (networks, "load_networks", lambda config, device: networks_of(family, size, config, device)),
            (loop, "make_face_targets", with_colors),
            (validation.Validator, "__call__", lambda self, state, folder: {}),
        ):
            stack.enter_context(mock.patch.object(place, name, value))
        report = loop.train(config, mode="pretrain", should_stop=probe)
    rows = journal.read_metrics(report.metrics_file) if team.is_first else []
    found = {
        "crop_px": edge,
        "batch": setting.batch,
        "crops_in_a_pass": setting.batch // setting.passes,
        "seconds_a_step": round(probe.seconds(), 4),
        "images_per_second": round(setting.batch / probe.seconds(), 2),
        "held_gb": named(team, probe.held_gb),
        "peak_gb": named(team, probe.peak_gb),
        "l1": [row["l1"] for row in rows],
        "bad_steps": report.bad_steps,
        "trained_parameters": report.trained_parameters,
    }
    if team.device.type == "cuda":
        torch.cuda.empty_cache()
    return found


def with_colors(config: Config, coco: Any, **given: Any) -> Any:
    """Targets of drawn faces, which only their colors tell apart."""
    return make_face_targets(config, coco, recognizer=tiny.ColorRecognizer(), **given)


def named(team: Team, gigabytes: float) -> dict[str, float]:
    """Each process's own figure."""
    return {name: round(value, 2) for name, value in team.sum_scalars({f"gpu {team.rank}": gigabytes}).items()}


# --- curves -----------------------------------------------------------------------------------------------------------


def train_demo(team: Team, folder: Path, work: Path) -> list[dict[str, float]]:
    """The demo's joint training from its base model; returns the rows of `metrics.csv`."""
    config = ablation.settings_of("demo", 0, team.device.type, work)
    places = {"outputs": str(folder), "private": str(folder / "private")}
    changes = {"accumulation": PASSES // team.size, "validation_regions": 32}
    config = config.model_copy(
        update={
            "paths": config.paths.model_copy(update=places),
            "training": config.training.model_copy(update=changes),
        }
    )
    with team.first_goes_ahead():
        raw.provide(config.data, Path(config.paths.cache))
    loop.train(config, mode="joint", max_steps=STEPS)
    return journal.read_metrics(folder / "metrics.csv") if team.is_first else []


@contextlib.contextmanager
def exact() -> Iterator[None]:
    """No TF32, and deterministic kernels where there are such; some have none, and torch says so."""
    convolutions, products = torch.backends.cudnn, torch.backends.cuda.matmul
    before = convolutions.allow_tf32, products.allow_tf32
    convolutions.allow_tf32 = products.allow_tf32 = False
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        convolutions.allow_tf32, products.allow_tf32 = before
        torch.use_deterministic_algorithms(False)


@contextlib.contextmanager
def double() -> Iterator[None]:
    """Let training compute in double precision, and validate nothing."""
    draw, draw_wholes = batches.draw_batch, batches.draw_detector_batch
    load_networks, load_critics = networks.load_networks, networks.load_critics

    def batch(*data: Any, **asked: Any) -> Any:
        drawn = draw(*data, **asked)
        tensors = {name: value.double() for name, value in vars(drawn).items() if isinstance(value, torch.Tensor)}
        return dataclasses.replace(drawn, **tensors)

    def wholes(*data: Any, **asked: Any) -> Any:
        drawn = draw_wholes(*data, **asked)
        targets = [target | {"boxes": target["boxes"].double()} for target in drawn.targets]
        return dataclasses.replace(drawn, images=[image.double() for image in drawn.images], targets=targets)

    with contextlib.ExitStack() as stack:
        for place, name, value in (
            (batches, "draw_batch", batch),
            (batches, "draw_detector_batch", wholes),
            (networks, "load_networks", lambda config, device: all_double(load_networks(config, device))),
            (networks, "load_critics", lambda config, device: all_double(load_critics(config, device))),
            (loop, "measure_margin", lambda *asked: 0.0),
            (validation.Validator, "__call__", lambda self, state, folder: {}),
        ):
            stack.enter_context(mock.patch.object(place, name, value))
        yield


def all_double(made: Any) -> Any:
    for network in vars(made).values():
        if network is not None:
            network.double()
    return made


# --- measuring and comparing ------------------------------------------------------------------------------------------


def measure(options: argparse.Namespace) -> None:
    """Each part in turn; rank 0 writes what all found."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    team = processes.join(choose_device(options.device))
    runs, file = options.work / f"by_{team.size}", options.work / f"by_{team.size}.json"
    if team.is_first:
        for part in options.parts:
            shutil.rmtree(runs / part, ignore_errors=True)
        runs.mkdir(parents=True, exist_ok=True)
    team.wait()
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    found |= {"processes": team.size, "device": ablation.device_name(team.device)}
    found |= {"torch": torch.__version__, "host": platform.machine(), "cores": os.cpu_count()}

    def note(name: str, value: Any) -> None:
        found[name] = value
        if team.is_first:
            file.write_text(json.dumps(found, indent=1) + "\n")
            print(f"{time.monotonic() - begin:5.0f} s: {name}", flush=True)

    begin = time.monotonic()
    for part in options.parts:
        try:
            for name, value in measured(part, team, options, runs / part):
                note(name, value)
        except Exception as error:  # noqa: BLE001 - whatever one part fails with, the others are worth having
            note(f"{part} failed", f"{type(error).__name__}: {error}")
            traceback.print_exc()


def measured(part: str, team: Team, options: argparse.Namespace, runs: Path) -> Iterator[tuple[str, Any]]:
    """What a part finds, by name."""
    if part == "curves":
        for name in ("fp32", "fp32 again")[: 2 if team.size == 1 else 1]:
            with exact():
                found = train_demo(team, runs / name.replace(" ", "_"), options.data)
            yield name, found
    elif part == "double":
        with exact(), double():
            found = train_demo(team, runs / "double", options.data)
        yield "double", found
    elif part == "rates":
        each = 8 if options.size == "real" else 2
        setting = Setting(each * team.size, team.size, fsdp=False, steps=options.steps)
        yield "rates", train_large("sd2", options.size, team, runs / "kept", setting)
        if team.size == 1:
            setting = setting._replace(keep=False)
            yield "rates, nothing kept", train_large("sd2", options.size, team, runs / "not_kept", setting)
    else:
        for fsdp in (False, True)[: team.size]:
            name, setting = "fsdp" if fsdp else "whole", Setting(4, PASSES, fsdp, max(4, options.steps // 2))
            yield name, train_large("sdxl", options.size, team, runs / name, setting)


def differences(one: list[dict[str, float]], two: list[dict[str, float]]) -> dict[str, Any]:
    """How far two curves are apart, as `pytest.approx` measures with equal relative and absolute tolerances."""
    apart: dict[str, list[float]] = {}
    for first, second in zip(one, two, strict=True):
        if first.keys() != second.keys():
            raise ValueError(f"step {first['step']:.0f} has other figures: {sorted(first.keys() ^ second.keys())}")
        for name in first.keys() - set(NOT_COMPARED):
            away = abs(first[name] - second[name]) / max(1.0, abs(first[name]))
            apart.setdefault(name, [0.0] * len(one))[round(first["step"]) - 1] = away
    largest = {name: float(f"{max(values):.2g}") for name, values in sorted(apart.items())}
    losses = [values for name, values in apart.items() if name not in ("gradient_norm", "val_map")]
    beyond = [number + 1 for number in range(len(one)) if max(values[number] for values in losses) > NEAR]
    return {"steps": len(one), "largest": largest, "first_step_beyond_1e-4": beyond[0] if beyond else None}


def compare(work: Path) -> dict[str, Any]:
    """What one process and several found."""
    one, several = (json.loads(path.read_text()) for path in (work / "by_1.json", *sorted(work.glob("by_[2-9].json"))))
    kept = ("device", "torch", "host", "cores")
    result: dict[str, Any] = {"benchmark": "several_gpus", "machine": {key: several[key] for key in kept}}
    result |= {"processes": several["processes"], "curves": {}}
    for name, (first, second) in {
        "fp32: one process against several": (one.get("fp32"), several.get("fp32")),
        "fp32: one process, twice": (one.get("fp32"), one.get("fp32 again")),
        "double: one process against several": (one.get("double"), several.get("double")),
    }.items():
        if first and second:
            result["curves"][name] = differences(first, second)
    if "fp32" in one and "fp32" in several:
        shown = ("step", "l1", "id", "adv", "reading", "detector", "arcface_mean_sim", "fid", "kid", "val_map")
        ends = {"one process": one["fp32"][-1], "several": several["fp32"][-1]}
        result["last_step"] = {who: {key: row[key] for key in shown if key in row} for who, row in ends.items()}
    if "rates" in one and "rates" in several:
        rates = {"one": one["rates"], "several": several["rates"]}
        ratio = rates["several"]["images_per_second"] / rates["one"]["images_per_second"]
        result["lora_at_sd2_size"] = {**rates, "times_as_fast": round(ratio, 3)}
        if "rates, nothing kept" in one:
            without = one["rates, nothing kept"]
            ratio = rates["one"]["images_per_second"] / without["images_per_second"]
            result["lora_at_sd2_size"] |= {"one, nothing kept": without, "kept_over_not_kept": round(ratio, 3)}
    sdxl = {"one": one.get("whole"), "several": several.get("whole"), "several, fsdp": several.get("fsdp")}
    result["lora_at_sdxl_size"] = {who: row for who, row in sdxl.items() if row}
    result["failed"] = {
        f"{who}, {name.removesuffix(' failed')}": why
        for who, found in (("one", one), ("several", several))
        for name, why in found.items()
        if name.endswith(" failed")
    }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("measure", "compare"))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--size", choices=tuple(SDXL), default="real")
    parser.add_argument("--steps", type=int, default=16, help="of the rates")
    parser.add_argument("--work", type=Path, default=ROOT / "outputs" / "several_gpus", help="holds what was found")
    parser.add_argument(
        "--data", type=Path, default=ROOT / "outputs" / "ablation", help="the ablation's --work, with its data"
    )
    options = parser.parse_args()
    options.work, options.data = options.work.resolve(), options.data.resolve()
    if options.what == "measure":
        measure(options)
    else:
        result = compare(options.work)
        RESULT.write_text(json.dumps(result, indent=1) + "\n")
        print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
