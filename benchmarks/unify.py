"""What unifying costs: ``python -m benchmarks.unify``, from the repository's root.

Writes ``benchmarks/results/unify.json``. With ANONY_REAL_DATA set, on WIDERFace's official val annotation and the real
images; otherwise on a generated annotation of the same size. One minute.
"""

import argparse
import contextlib
import io
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pycocotools.coco

from anony_pipeline.datasets import coco, unify, widerface
from anony_pipeline.datasets.sources import SourceSet
from anony_pipeline_tests.datasets import layouts
from anony_pipeline_tests.references import widerface_reference

RESULT = Path(__file__).parent / "results" / "unify.json"
IMAGES, FACES, REPEATS = 3226, 39_708, 5


def machine() -> str:
    """What this was measured on, and how busy it was with other things."""
    load = os.getloadavg()[0]
    return f"{platform.machine()}, {os.cpu_count()} cores, load {load:.1f}, Python {platform.python_version()}"


def seconds(*works: Callable[[], object]) -> list[float]:
    """The median time of a call of each; they take turns, so that other load on the machine hits all alike."""
    taken: list[list[float]] = [[] for _ in works]
    for _ in range(REPEATS):
        for work, times in zip(works, taken, strict=True):
            begin = time.perf_counter()
            work()
            times.append(time.perf_counter() - begin)
    return [round(statistics.median(times), 4) for times in taken]


def generated(root: Path) -> Path:
    """An annotation with as many images and rows as the official one."""
    rng = np.random.default_rng(0)
    owner = np.sort(rng.integers(0, IMAGES, FACES))
    rows = np.column_stack(
        [rng.integers(0, 900, (FACES, 2)), rng.integers(1, 120, (FACES, 2)), rng.integers(0, 2, (FACES, 6))]
    )
    cuts = np.searchsorted(owner, np.arange(IMAGES + 1))
    images = [(f"{i % 61}--Event/{i % 61}_Event_{i}.jpg", rows[cuts[i] : cuts[i + 1]].tolist()) for i in range(IMAGES)]
    layouts.write_annotation(root, layouts.widerface_text(images).encode())
    return root


def same(result: SourceSet, reference: list[dict]) -> bool:
    """Whether both parsers found the same boxes."""
    ours = [[box.box_xywh for box in image.boxes] for image in result.images]
    theirs = [
        [(face["x"], face["y"], face["w"], face["h"]) for face in image["faces"] if face["w"] > 0 and face["h"] > 0]
        for image in reference
    ]
    return ours == theirs


def measure(root: Path, work: Path) -> dict[str, object]:
    source = layouts.widerface_source(root)
    file = root / "wider_face_split/wider_face_val_bbx_gt.txt"
    assert same(widerface.read(source, "val"), widerface_reference.read(file))
    ours, reference = seconds(lambda: widerface.read(source, "val"), lambda: widerface_reference.read(file))
    data = unify.data_of(str(root), None)
    report = unify.unify(data, work, without_images=True)
    unified = work / "unified_val.json"
    (whole,) = seconds(lambda: unify.unify(data, work, without_images=True))
    with contextlib.redirect_stdout(io.StringIO()):
        load, theirs = seconds(lambda: coco.load(unified), lambda: pycocotools.coco.COCO(str(unified)))
    return {
        "images": report.images,
        "boxes": report.boxes,
        "iscrowd": report.iscrowd,
        "dropped": report.dropped,
        "images_without_boxes": report.images_without_boxes,
        "read_seconds": ours,
        "slow_reference_read_seconds": reference,
        "read_over_reference": round(ours / reference, 2),
        "unify_seconds": whole,
        "boxes_per_second": round(report.boxes / whole),
        "load_seconds": load,
        "pycocotools_load_seconds": theirs,
        "load_over_pycocotools": round(load / theirs, 2),
        "bytes": unified.stat().st_size,
    }


def measure_images(root: Path, work: Path) -> dict[str, object]:
    data = unify.data_of(str(root / "widerface"), str(root / "pp4av"))
    report = unify.unify(data, work)
    (taken,) = seconds(lambda: unify.unify(data, work))
    images = report.images + report.left_out_frames
    return {"images": images, "boxes": report.boxes, "seconds": taken, "images_per_second": round(images / taken)}


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    real = os.environ.get("ANONY_REAL_DATA")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        root = Path(real) / "widerface_official" if real else generated(work / "generated")
        result = {
            "machine": machine(),
            "annotation": "WIDERFace's official val file" if real else "generated, of the size of WIDERFace's val file",
            "without_images": measure(root, work / "unified"),
            "with_images": measure_images(Path(real), work / "unified_images") if real else None,
        }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
