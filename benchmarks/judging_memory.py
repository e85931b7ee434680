"""What judging holds in memory: ``python -m benchmarks.judging_memory``, from the repository's root.

Writes ``benchmarks/results/judging_memory.json``: how much the process grows from just before the first region on, at
1,000 and at 10,000 procedural regions, in a process each. The shipped judges look at pictures of ten regions that were
left as they are, blurred and filled. Ten minutes on one core.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
import torch

from anony_pipeline.config.schema import Config
from anony_pipeline.datasets import coco
from anony_pipeline.datasets.coco import CocoSet
from anony_pipeline.evaluation import baselines, folders, scorecard
from anony_pipeline.evaluation.figures import FigureMaker
from anony_pipeline.evaluation.judges import load_without_checkpoint
from anony_pipeline.evaluation.run import Run
from anony_pipeline.ops import images

RESULT = Path(__file__).parent / "results" / "judging_memory.json"
COUNTS = (1_000, 10_000)
METHODS = ("blur", "solid")
FACES, PLATES, CELL = 8, 2, 64
WIDTH, HEIGHT = 5 * CELL, 2 * CELL


def streets(folder: Path, regions: int) -> CocoSet:
    """Pictures of eight patterns for faces and two for plates each; every person is seen on many."""
    rng = np.random.default_rng(0)
    people = rng.integers(0, 256, (regions // 10, 6, 5, 3)).astype(np.uint8)
    records, annotations = [], []
    for number in range(regions // (FACES + PLATES)):
        picture = rng.integers(90, 150, (HEIGHT, WIDTH, 3)).astype(np.uint8)
        for place in range(FACES + PLATES):
            x, y = 8 + CELL * (place % 5), 8 + CELL * (place // 5)
            kind = 1 if place < FACES else 2
            person = int(rng.integers(len(people)))
            size = (40, 48) if kind == 1 else (48, 14)
            picture[y : y + size[1], x : x + size[0]] = cv2.resize(people[person], size, interpolation=cv2.INTER_LINEAR)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": kind,
                    "bbox": [float(x), float(y), float(size[0]), float(size[1])],
                    "area": float(size[0] * size[1]),
                    "iscrowd": 0,
                    **({"identity": f"person-{person}"} if kind == 1 else {"serial": f"AB{person:05d}"}),
                }
            )
        record = {"id": number, "file_name": f"{number:05d}.png", "width": WIDTH, "height": HEIGHT, "source": "street"}
        records.append({**record, "plate_style": None, "not_exhaustive_category_ids": []})
        images.write(folder / record["file_name"], picture)
    coco.save(folder / "unified_val.json", {"sources": {"street": {"root": "."}}}, records, annotations)
    return coco.load(folder / "unified_val.json")


def grown(regions: int) -> dict[str, float]:
    """Judge so many regions in this process; megabytes of growth over the memory before the first one."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        unified = streets(folder, regions)
        config: Config = folders.configuration([], [f"paths.cache={folder / 'cache'}"])
        judges = load_without_checkpoint(config, torch.device("cpu"))
        methods = {"none": baselines.none()} | {name: baselines.redaction(name) for name in METHODS}
        run = Run(config, unified, judges, methods)
        before = peak()
        run.look()
        looked = peak()
        evidence = run.evidence({})
        rows = scorecard.rows_of(evidence, FigureMaker(evidence))
        return {
            "regions": len(run.subjects),
            "figures": sum(len(row.figures) for row in rows),
            "before_mb": round(before, 1),
            "growth_while_looking_mb": round(looked - before, 1),
            "growth_mb": round(peak() - before, 1),
        }


def peak() -> float:
    """The most that this process has held so far, in megabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--regions", type=int, help="judge so many in this process and print what it took")
    options = parser.parse_args()
    if options.regions:
        print(json.dumps(grown(options.regions)))
        return
    rows = []
    for count in COUNTS:
        command = [sys.executable, "-m", "benchmarks.judging_memory", "--regions", str(count)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print(rows[-1], flush=True)
    result = {
        "benchmark": "judging_memory",
        "methods": ["none", *METHODS],
        "rows": rows,
        "ratio": round(rows[1]["growth_mb"] / rows[0]["growth_mb"], 3),
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
