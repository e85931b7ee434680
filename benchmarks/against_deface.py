"""Side by side with deface (https://github.com/ORB-HD/deface): which faces are covered, what else is, and how fast.

Needs: `pip install deface` (1.5.0 was measured), `make demo`, and with --real a folder of photographs in WIDERFace's
       layout. deface blurs what CenterFace finds; here what the demo's checkpoint and YuNet find is replaced.
Run:   python benchmarks/against_deface.py [--real FOLDER --yunet yunet.onnx]
Takes: some minutes on two cores. Writes results/against_deface.json: counts alone, no pixel and no name.

A face counts as covered if half of its annotated box or more was changed. Both are called as their command lines call
them, in one process each, and are timed with loading.
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np

from anony_pipeline.config import loading
from anony_pipeline.datasets import coco
from anony_pipeline.datasets.coco import CocoSet
from anony_pipeline.ops import images
from anony_pipeline.structures import boxes

ROOT = Path(__file__).parents[1]
RESULT = Path(__file__).parent / "results" / "against_deface.json"
COVERED = 0.5
EDGES_PX = (0, 10, 20, 32, 64)


def demo_images() -> CocoSet:
    """The validation split of the demo: drawn people."""
    return coco.load(Path(loading.load([ROOT / "configs" / "demo.yaml"]).paths.unified) / "unified_val.json")


def photographs(root: Path, work: Path) -> CocoSet:
    """WIDERFace's layout, unified as any source is."""
    command = [sys.executable, "-m", "anony_pipeline", "unify", "--widerface", str(root), "--output", str(work)]
    subprocess.run(command, check=True)
    train, val = (coco.load(work / f"unified_{split}.json") for split in ("train", "val"))
    return replace(train, images=train.images + val.images, annotations=train.annotations + val.annotations)


def copies(unified: CocoSet, folder: Path) -> dict[int, str]:
    """The images as lossless PNG, so that what a method changed is what differs; names by image id."""
    folder.mkdir(parents=True)
    names = {}
    for record in unified.images:
        names[record["id"]] = f"{record['id']:06d}.png"
        images.write(folder / names[record["id"]], images.read(unified.image_file(record)))
    return names


def changed(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    return (before != after).any(axis=2)


def measure(unified: CocoSet, names: dict[int, str], before: Path, after: Path) -> dict:
    """Share of faces covered, in all and by their shorter edge, and share of the other pixels that changed."""
    hits, edges, other, outside = [], [], 0, 0
    for record in unified.images:
        original = images.read(before / names[record["id"]])
        file = after / names[record["id"]]
        mask = changed(original, images.read(file)) if file.exists() else np.zeros(original.shape[:2], bool)
        free = np.ones(mask.shape, bool)
        for annotation in unified.annotations_by_image[record["id"]]:
            x_min, y_min, x_max, y_max = boxes.round_outward(
                boxes.xywh_to_xyxy([annotation["bbox"]]), record["width"], record["height"]
            )[0]
            free[y_min:y_max, x_min:x_max] = False
            if annotation["category_id"] != 1 or annotation.get("iscrowd"):
                continue
            hits.append(mask[y_min:y_max, x_min:x_max].mean() >= COVERED)
            edges.append(min(annotation["bbox"][2:]))
        other += int((mask & free).sum())
        outside += int(free.sum())
    hit, edge = np.array(hits), np.array(edges)
    groups = np.digitize(edge, EDGES_PX) - 1
    by_edge = {
        f"from_{low}_px": {"faces": int((groups == n).sum()), "covered": round(float(hit[groups == n].mean()), 3)}
        for n, low in enumerate(EDGES_PX)
        if (groups == n).any()
    }
    return {
        "faces": len(hit),
        "covered": round(float(hit.mean()), 3),
        "by_edge": by_edge,
        "share_of_other_pixels_changed": round(other / outside, 4),
    }


def timed(command: list[str]) -> float:
    begin = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begin


def deface(before: Path, after: Path) -> float:
    after.mkdir(parents=True)
    # Its command line names one output a call; a folder's images get a suffix beside the originals.
    seconds = timed([sys.executable, "-m", "deface.deface", str(before)])
    for file in before.glob("*_anonymized.png"):
        file.rename(after / file.name.replace("_anonymized", ""))
    return seconds


def ours(before: Path, after: Path, yunet: Path | None, *options: str) -> float:
    checkpoint = max(
        (Path(loading.load([ROOT / "configs" / "demo.yaml"]).paths.outputs) / "checkpoints").glob("step_*")
    )
    faces = ["--face-detector", str(yunet)] if yunet else []
    command = [sys.executable, "-m", "anony_pipeline", "anonymize", str(before), "--checkpoint", str(checkpoint)]
    return timed([*command, "--output", str(after), *faces, *options])


def compare(unified: CocoSet, work: Path, yunet: Path | None) -> dict:
    before = work / "before"
    names = copies(unified, before)
    methods = {"deface": lambda after: deface(before, after)}
    for profile in ("realistic", "blur"):
        methods[f"anony_{profile}"] = lambda after, profile=profile: ours(before, after, None, "--profile", profile)
        if yunet is not None:
            methods[f"anony_{profile}_with_yunet"] = lambda after, profile=profile: ours(
                before, after, yunet, "--profile", profile
            )
    rows = {"images": len(names)}
    for name, run in methods.items():
        seconds = run(work / name)
        rows[name] = {
            "images_per_second": round(len(names) / seconds, 3),
            **measure(unified, names, before, work / name),
        }
        print(json.dumps({name: rows[name]}), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--real", type=Path)
    parser.add_argument("--yunet", type=Path)
    options = parser.parse_args()
    result = {
        "benchmark": "against_deface",
        "machine": platform.processor() or platform.machine(),
        "deface": version("deface"),
        "covered_means": f"{COVERED:g} of the box changed",
    }
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        result["drawn_people"] = compare(demo_images(), work / "demo", options.yunet)
        if options.real:
            result["photographs"] = compare(photographs(options.real, work / "unified"), work / "real", options.yunet)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
