"""What detection's protocols cost: ``python -m benchmarks.widerface_protocol``, from the repository's root.

Writes ``benchmarks/results/widerface_protocol.json``: WIDERFace's protocol against a direct port of the official
procedure, and COCO's mAP against faster-coco-eval alone, on synthetic detections. With ANONY_REAL_DATA set, on the
official ground truth of WIDERFace's val images; otherwise on a generated one of the same size. Two minutes of CPU.
"""

import argparse
import contextlib
import io
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster

from anony_pipeline.evaluation import detection, widerface_protocol
from anony_pipeline.evaluation.widerface_protocol import Image, Truth
from anony_pipeline_tests.references import widerface_protocol_reference as reference

RESULT = Path(__file__).parent / "results" / "widerface_protocol.json"
IMAGES, FACES, REPEATS = 3226, 39_708, 5


def machine() -> str:
    """What this was measured on, and how busy it was with other things."""
    load = os.getloadavg()[0]
    return f"{platform.machine()}, {os.cpu_count()} cores, load {load:.1f}, Python {platform.python_version()}"


def generated() -> Truth:
    """A ground truth with as many images and faces as the official one."""
    rng = np.random.default_rng(0)
    owners = rng.integers(0, IMAGES, FACES)
    truth = {}
    for number in range(IMAGES):
        count = int((owners == number).sum())
        boxes = np.column_stack([rng.integers(0, 900, (count, 2)), rng.integers(6, 120, (count, 2))]).astype(float)
        counted = {"easy": boxes[:, 3] > 60, "medium": boxes[:, 3] > 30, "hard": boxes[:, 3] > 10}
        truth[f"image_{number}"] = Image(boxes, counted)
    return truth


def detections(truth: Truth) -> dict[str, np.ndarray]:
    """Most faces found with a jitter, some twice, and as many false alarms."""
    rng = np.random.default_rng(1)
    found = {}
    for name, image in truth.items():
        boxes = image.boxes_xywh[rng.random(len(image.boxes_xywh)) < 0.85]
        boxes = np.concatenate([boxes, boxes[rng.random(len(boxes)) < 0.1]])
        right = boxes + rng.normal(0, 0.08, boxes.shape) * np.tile(boxes[:, 2:], 2)
        count = len(boxes) + 3
        wrong = np.column_stack([rng.uniform(0, 900, (count, 2)), rng.uniform(8, 90, (count, 2))])
        rows = np.concatenate([right, wrong])
        scores = np.concatenate([rng.beta(4, 2, len(right)), rng.beta(2, 5, len(wrong))])
        found[name] = np.column_stack([rows[:, :2], rows[:, 2:].clip(1), scores])
    return found


def seconds(*works: Callable[[], object], repeats: int = REPEATS) -> list[float]:
    """The median CPU time of each call. They take turns, so that a busy minute is in all of them."""
    times: list[list[float]] = [[] for _ in works]
    for _ in range(repeats):
        for work, taken in zip(works, times, strict=True):
            begin = time.process_time()
            work()
            taken.append(time.process_time() - begin)
    return [statistics.median(taken) for taken in times]


def as_coco(truth: Truth, found: dict[str, np.ndarray]) -> tuple[list[dict], list[dict], list[dict]]:
    """The same as COCO records: the faces that count for nobody are crowds."""
    numbers = {name: number for number, name in enumerate(truth, 1)}
    images = [{"id": number} for number in numbers.values()]
    rows = [
        (numbers[name], box, counts)
        for name, image in truth.items()
        for box, counts in zip(image.boxes_xywh.tolist(), image.counted["hard"].tolist(), strict=True)
        if box[2] > 0 and box[3] > 0
    ]
    annotations = [
        {"id": i, "image_id": n, "category_id": 1, "bbox": b, "area": b[2] * b[3], "iscrowd": int(not counts)}
        for i, (n, b, counts) in enumerate(rows, 1)
    ]
    results = [
        {"image_id": numbers[name], "category_id": 1, "bbox": row[:4], "score": row[4]}
        for name, rows in found.items()
        for row in rows.tolist()
    ]
    return images, annotations, results


def alone(images: list[dict], annotations: list[dict], results: list[dict]) -> float:
    """faster-coco-eval as its own documentation has it."""
    with contextlib.redirect_stdout(io.StringIO()):
        data = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "face"}]}
        truth = COCO(data)
        evaluation = COCOeval_faster(truth, truth.loadRes(results), "bbox", print_function=lambda *_: None)
        evaluation.params.maxDets = [1, 10, detection.MAX_DETECTIONS]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    return float(precision[precision > -1].mean())


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    real = os.environ.get("ANONY_REAL_DATA")
    truth = widerface_protocol.load(Path(real) / "widerface_official" / "ground_truth") if real else generated()
    found = detections(truth)
    ours = widerface_protocol.average_precision(truth, found)
    begin = time.process_time()
    theirs = {key: reference.average_precision(truth, found, key) for key in widerface_protocol.DIFFICULTIES}
    port = time.process_time() - begin
    (mine,) = seconds(lambda: widerface_protocol.average_precision(truth, found))
    records = as_coco(truth, found)
    mean = detection.average_precision(*records, categories=[1]).map
    coco, faster = seconds(
        lambda: detection.average_precision(*records, categories=[1]), lambda: alone(*records), repeats=2 * REPEATS
    )
    result = {
        "machine": machine(),
        "ground_truth": "WIDERFace's official val lists" if real else "generated, of the size of WIDERFace's val set",
        "images": len(truth),
        "faces": sum(len(image.boxes_xywh) for image in truth.values()),
        "detections": sum(len(rows) for rows in found.values()),
        "average_precision": {key: round(value, 6) for key, value in ours.items()},
        "largest_difference_to_port": max(abs(ours[key] - theirs[key]) for key in ours),
        "seconds": round(mine, 3),
        "port_seconds": round(port, 2),
        "times_as_fast": round(port / mine, 1),
        "coco_map": round(mean, 6),
        "coco_map_difference_to_faster_coco_eval": abs(mean - alone(*records)),
        "coco_seconds": round(coco, 3),
        "faster_coco_eval_seconds": round(faster, 3),
        "coco_over_faster_coco_eval": round(coco / faster, 3),
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
