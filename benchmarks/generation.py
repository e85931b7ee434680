"""One-step generation of a batch of crops, against the stock diffusers pipeline called crop by crop.

Run:   python benchmarks/generation.py [--crops 16] [--rounds 3] [--device cpu]
Takes: about a minute on two cores.

Both get the same crops, masks, noise and number of steps, and make the same pictures: the largest difference of a pixel
inside the masks is in the result. The model is the demo's shipped one at its own sizes. The stock pipeline is called as
its users call it: a prompt, an image and a mask as tensors, one crop at a time; its progress bar is off.
"""

import argparse
import json
import os
import platform
import statistics
import time
from pathlib import Path

import torch

from anony_pipeline.config import loading
from anony_pipeline.models.generator import load_generator
from anony_pipeline.structures.regions import Kind

RESULT = Path(__file__).parent / "results" / "generation.json"
CONFIG = Path(__file__).parents[1] / "configs" / "demo.yaml"
SIZES = {"faces, 128 x 128": (128, 128), "plates' size, 64 x 192": (64, 192)}


def seconds_of(action, device: torch.device) -> tuple[float, torch.Tensor]:
    begin = time.perf_counter()
    made = action()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begin, made


def measured(size_hw: tuple[int, int], crops: int, steps: int, rounds: int, device: torch.device) -> dict:
    generator = load_generator(loading.load([CONFIG], [f"face_steps={steps}"]), device=device, dtype=torch.float32)
    stock = generator.pipeline
    stock.set_progress_bar_config(disable=True)
    draw = torch.Generator().manual_seed(0)
    height, width = size_hw
    images = (torch.rand(crops, 3, height, width, generator=draw) * 2 - 1).to(device)
    masks = torch.zeros(crops, 1, height, width, device=device)
    masks[..., height // 4 : -height // 4, width // 4 : -width // 4] = 1
    noise = torch.randn(generator.noise_shape(crops, size_hw), generator=draw).to(device)

    @torch.inference_mode()
    def ours() -> torch.Tensor:
        return generator.fill(images, masks, Kind.FACE, noise=noise)

    def one_by_one() -> torch.Tensor:
        made = [
            stock(
                prompt="a face", image=(images[i : i + 1] + 1) / 2, mask_image=masks[i : i + 1],
                height=height, width=width, strength=1.0, num_inference_steps=steps, guidance_scale=1.0,
                latents=noise[i : i + 1], output_type="pt",
            ).images
            for i in range(crops)
        ]  # fmt: skip
        return torch.cat(made) * 2 - 1

    times: dict[str, list[float]] = {"ours": [], "stock": []}
    for number in range(rounds + 1):
        for name, action in (("ours", ours), ("stock", one_by_one)):
            seconds, made = seconds_of(action, device)
            if number:  # the first round warms up
                times[name].append(seconds)
            if name == "ours":
                filled = made
    inside = (masks > 0.5).expand_as(filled)
    rates = {name: crops / statistics.median(values) for name, values in times.items()}
    return {
        "steps": steps,
        "crops_per_second": {name: round(rate, 2) for name, rate in rates.items()},
        "ours_over_stock": round(rates["ours"] / rates["stock"], 2),
        "largest_difference": round(float((filled - made)[inside].abs().max()), 6),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--crops", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    device = torch.device(options.device)
    rows = {
        f"{name}, {steps} {'step' if steps == 1 else 'steps'}": measured(
            size_hw, options.crops, steps, options.rounds, device
        )
        for name, size_hw in SIZES.items()
        for steps in (1, 4)
    }
    result = {
        "benchmark": "generation",
        "machine": {
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            # What else ran meanwhile: the two sides take turns, so a ratio says more than a rate.
            "load_average": round(os.getloadavg()[0], 1),
        },
        "crops": options.crops,
        "rows": rows,
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
