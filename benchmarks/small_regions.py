"""What to do with regions of a few pixels: generate them, continue their surroundings, or fill them with one color.

Run:   python benchmarks/small_regions.py --checkpoint outputs/demo/checkpoints/step_000120 [MORE] [--images 24]
Takes: about three minutes on two cores, a checkpoint.

All regions of the val images are treated in one way, and judged by the length of their shorter edge: the feature
distance (KID, 100 x; less is better) of the grown boxes to the originals, and the share of regions that the held-out
detector still finds (score 0.3, IoU 0.5) of those that it finds in the originals. Verification is off for `generate`:
the question is how it looks, not whether it is let out. A checkpoint trained with `model.generator.small_crops` beside
one trained without says what half of the size costs and saves: `cpu_seconds` are what the process itself computed.
"""

import argparse
import json
import time
from collections import defaultdict
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from anony_pipeline.anonymize.loading import load_anonymizer, open_checkpoint
from anony_pipeline.anonymize.verifying import Verdict
from anony_pipeline.datasets import loaders
from anony_pipeline.evaluation import fid
from anony_pipeline.evaluation.judges import load_judges
from anony_pipeline.ops import crops
from anony_pipeline.ops.masks import GROWTH
from anony_pipeline.structures import boxes

RESULT = Path(__file__).parent / "results" / "small_regions.json"
EDGES_PX = (0, 8, 12, 16, 24, 40, 10_000)
WAYS = {
    "generate": {"min_region_px": 0.0},
    "texture": {"min_region_px": 1e9, "tiny": "texture"},
    "solid": {"min_region_px": 1e9, "tiny": "solid"},
}
LEAST = 12
"""Regions of a size, below which there is no KID."""


class LetAllOut:
    """A verifier that refuses nothing."""

    @staticmethod
    def originals(images, regions):
        return [None] * len(regions)

    @staticmethod
    def verdicts(images, results, regions, known):
        return [Verdict(True, None)] * len(regions)


def bucket(region) -> str:
    edge = min(region.size_wh)
    low, high = next((a, b) for a, b in pairwise(EDGES_PX) if a <= edge < b)
    return f"{low} to {high} px" if high < 10_000 else f"{low} px and more"


def found(detector, image, regions) -> list[bool]:
    seen = [region for region in detector.find([image])[0] if region.score >= 0.3]
    hits = []
    for region in regions:
        same = [r.box_xyxy for r in seen if r.kind is region.kind]
        hits.append(bool(same) and boxes.iou([region.box_xyxy], same).max() >= 0.5)
    return hits


def measured(checkpoint: Path, images: int) -> dict:
    opened = open_checkpoint(checkpoint)
    device = torch.device("cpu")
    judges = load_judges(opened.config, opened, device)
    anonymizer = load_anonymizer(checkpoint, "cpu", secret=b"benchmark" * 2)
    policy = anonymizer.policy
    val = loaders.open_split(opened.config, "val")
    chosen = set(np.linspace(0, len(val) - 1, min(images, len(val))).astype(int).tolist())
    examples = [example for number, example in enumerate(loaders.examples(val)) if number in chosen]
    cuts = {way: defaultdict(list) for way in ("original", *WAYS)}
    kept = {way: defaultdict(list) for way in WAYS}
    seconds = dict.fromkeys(WAYS, 0.0)
    anonymizer.verifier = LetAllOut()
    for example in examples:
        regions = [r for r, a in zip(example.regions, example.annotations, strict=True) if not a.get("iscrowd")]
        made = {"original": example.image_rgb}
        for way, changes in WAYS.items():
            anonymizer.policy = replace(policy, treatment="generate", **changes)
            begin = time.process_time()
            made[way] = anonymizer.anonymize(example.image_rgb, regions, style=example.image.get("plate_style"))[0]
            seconds[way] += time.process_time() - begin
        before = found(judges.detectors["held_out"], example.image_rgb, regions)
        for way, image in made.items():
            after = found(judges.detectors["held_out"], image, regions)
            for region, was, still in zip(regions, before, after, strict=True):
                window = tuple(boxes.grow([region.box_xyxy], GROWTH[region.kind])[0].tolist())
                cuts[way][bucket(region)].append(crops.cut(image, window, (64, 64)))
                if was and way in kept:
                    kept[way][bucket(region)].append(still)
    rows = {}
    for size in sorted(cuts["original"], key=lambda name: int(name.split()[0])):
        real = judges.features.extract(cuts["original"][size])
        rows[size] = {"regions": len(real), "found_before": len(kept["solid"][size])}
        for way in WAYS:
            figures = {"still_found": round(float(np.mean(kept[way][size])), 3)} if kept[way][size] else {}
            if len(real) >= LEAST:
                fake = judges.features.extract(cuts[way][size])
                figures["kid_x100"] = round(100 * fid.kid(real, fake, np.random.default_rng(0)).value, 3)
            rows[size][way] = figures
    return {
        "images": len(examples),
        "checkpoint_step": opened.step,
        "small_crops": opened.config.model.generator.small_crops,
        "cpu_seconds": {way: round(value, 2) for way, value in seconds.items()},
        "rows": rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, required=True, nargs="+")
    parser.add_argument("--images", type=int, default=24)
    options = parser.parse_args()
    found_of = [measured(checkpoint, options.images) for checkpoint in options.checkpoint]
    result = {"benchmark": "small_regions", "threads": torch.get_num_threads(), "checkpoints": found_of}
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
