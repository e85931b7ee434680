"""What reading an image costs: ``python -m benchmarks.read_images``, from the repository's root.

Our `ops.images.read` against Pillow and plain OpenCV, whole sets by several threads, and headers alone. Writes
``benchmarks/results/read_images.json``. Generated pictures with the detail of photographs, 1024 x 768; a minute.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps

from anony_pipeline.datasets import coco, image_headers, loaders
from anony_pipeline.ops import images

RESULT = Path(__file__).parent / "results" / "read_images.json"
WIDTH, HEIGHT, FILES, REPEATS = 1024, 768, 32, 7


def machine() -> str:
    """What this was measured on, and how busy it was with other things."""
    load = os.getloadavg()[0]
    return f"{platform.machine()}, {os.cpu_count()} cores, load {load:.1f}, Python {platform.python_version()}"


def photograph(rng: np.random.Generator) -> np.ndarray:
    """A picture whose spectrum falls like that of photographs (as one over frequency), so that it compresses alike."""
    frequency = np.hypot(np.fft.fftfreq(HEIGHT)[:, None], np.fft.rfftfreq(WIDTH)[None, :])
    frequency[0, 0] = 1
    channels = []
    for _ in range(3):
        spectrum = np.fft.rfft2(rng.normal(size=(HEIGHT, WIDTH))) / frequency
        channel = np.fft.irfft2(spectrum, (HEIGHT, WIDTH))
        channels.append(128 + 50 * channel / channel.std())
    # The channels of photographs go together.
    mean = np.mean(channels, axis=0)
    return np.clip(np.stack([mean + 0.3 * (channel - mean) for channel in channels], -1), 0, 255).astype(np.uint8)


def pillow(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def opencv(path: Path) -> np.ndarray:
    return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)


def each(read: Callable[[Path], object], files: list[Path]) -> Callable[[], int]:
    """A round of one reader over all files, one after another."""
    return lambda: len([read(file) is not None for file in files])


def loaded(files: list[Path], workers: int) -> Callable[[], int]:
    """A round through `loaders.examples`."""
    records = [{"id": i, "file_name": str(file)} for i, file in enumerate(files)]
    unified = coco.CocoSet(files[0].parent / "unified.json", {}, records, [])
    return lambda: sum(1 for _ in loaders.examples(unified, workers=workers))


def per_second(rounds: dict[str, Callable[[], int]]) -> dict[str, float]:
    """Files a second of each, the median of some rounds; the rounds take turns, so that other load hits all alike."""
    rates: dict[str, list[float]] = {name: [] for name in rounds}
    for _ in range(REPEATS):
        for name, work in rounds.items():
            begin = time.perf_counter()
            rates[name].append(work() / (time.perf_counter() - begin))
    return {name: round(statistics.median(values), 1) for name, values in rates.items()}


def measure(files: list[Path]) -> dict[str, object]:
    rates = per_second(
        {
            "ours": each(images.read, files),
            "pillow": each(pillow, files),
            "plain_opencv": each(opencv, files),
            **{f"loader_of_{workers}_workers": loaded(files, workers) for workers in (0, 1, 2)},
            "header": each(image_headers.upright_size, files),
        }
    )
    return {
        "bytes_each": round(statistics.mean(file.stat().st_size for file in files)),
        "images_per_second": rates,
        "ours_over_pillow": round(rates["ours"] / rates["pillow"], 2),
        "ours_over_plain_opencv": round(rates["ours"] / rates["plain_opencv"], 2),
        "header_over_ours": round(rates["header"] / rates["ours"], 1),
    }


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    cv2.setNumThreads(1)
    rng = np.random.default_rng(0)
    pictures = [photograph(rng) for _ in range(FILES)]
    result = {"machine": machine()}
    with tempfile.TemporaryDirectory() as folder:
        for suffix in (".jpg", ".png"):
            files = [Path(folder) / f"{i}{suffix}" for i in range(FILES)]
            for file, picture in zip(files, pictures, strict=True):
                images.write(file, picture, quality=90)
            assert np.array_equal(images.read(files[0]), opencv(files[0]))
            result[suffix.removeprefix(".")] = measure(files)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
