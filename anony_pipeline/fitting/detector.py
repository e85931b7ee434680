"""Fit the detectors on procedural scenes, and measure them on scenes that they have never seen."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch

from anony_pipeline.fitting import augmentation
from anony_pipeline.fitting.loop import Plan, fit
from anony_pipeline.fitting.rendering import Scenes
from anony_pipeline.models.detector import Detector, build_detector, detect
from anony_pipeline.ops.crops import cut
from anony_pipeline.runtime import seeding
from anony_pipeline.structures import boxes
from anony_pipeline.structures.regions import CATEGORY_IDS, Region

NAMES = {"detector": "fcos", "held_out_detector": "retinanet"}
CROP_PX = 384
SMALLEST_PX = 4
Batch = tuple[np.ndarray, list[dict[str, torch.Tensor]], list[tuple[int, ...]]]


def fit_detector(
    name: str,
    scenes: Scenes,
    plan: Plan,
    *,
    batch: int = 24,
    crop_px: int = CROP_PX,
    start: Detector | None = None,
) -> Detector:
    """Fit one of the shipped detectors.

    Args:
        name: ``detector`` or ``held_out_detector``.
        scenes: With what they label, and what not.
        plan: How long and where.
        batch: Crops a step.
        crop_px: Their edge.
        start: Is trained further, in place; random weights if None.

    Returns:
        The detector, on the plan's device.
    """
    torch.manual_seed(seeding.seed_for(plan.seed, f"{name} start"))
    detector = build_detector(NAMES[name]) if start is None else start  # type: ignore[arg-type]
    ahead: dict[str, Iterator[Batch]] = {}

    def step(number: int, randomness: torch.Generator) -> torch.Tensor:
        if "batches" not in ahead:
            ahead["batches"] = _ahead(lambda n: sample(scenes, batch, crop_px, plan.seed, n), number, plan.steps)
        crops, targets, not_exhaustive = next(ahead["batches"])
        pixels = augmentation.to_pixels(torch.from_numpy(crops).to(plan.device, non_blocking=True))
        pixels = augmentation.light(pixels, randomness, strength=0.8)
        pixels, _ = augmentation.add_noise(pixels, randomness, highest=0.08)
        moved = [{key: value.to(plan.device) for key, value in target.items()} for target in targets]
        losses = detector(list((pixels + 1) / 2), moved, not_exhaustive)
        return torch.stack(list(losses.values())).sum()

    fit(name, {"detector": detector}, step, plan)
    return detector


def _ahead(make: Callable[[int], Batch], first: int, end: int, workers: int = 8) -> Iterator[Batch]:
    """Make batches by a few threads before they are asked for; OpenCV works outside Python's lock."""
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[Batch]] = deque()
        number = first
        while number < end or waiting:
            while number < end and len(waiting) < 2 * workers:
                waiting.append(pool.submit(make, number))
                number += 1
            yield waiting.popleft().result()


def sample(scenes: Scenes, count: int, crop_px: int, seed: int, step: int) -> Batch:
    """Cut random squares of random scale out of scenes.

    Returns:
        ``(count, crop_px, crop_px, 3)`` uint8, and for each the targets of `Detector.forward`: boxes of which less
        than 40 % is left, or that got too small to be seen, become crowd regions. Last, what each does not label.
    """
    rng = seeding.numpy_generator(seed, "detector crops", step)
    crops, targets = [], []
    chosen = rng.integers(len(scenes.images), size=count).tolist()
    for number in chosen:
        scale = float(np.exp(rng.uniform(np.log(0.5), np.log(2.0))))
        edge = crop_px / scale
        corner = _corner(scenes, number, edge, rng)
        window = (*corner.tolist(), *(corner + edge).tolist())
        crops.append(cut(scenes.images[number], window, (crop_px, crop_px)))
        targets.append(_targets(scenes, number, corner, scale, crop_px))
    return np.stack(crops), targets, [scenes.not_exhaustive[number] for number in chosen]


def _corner(scenes: Scenes, number: int, edge: float, rng: np.random.Generator) -> np.ndarray:
    """The upper left corner of a crop; four in five crops show a labeled region."""
    height, width = scenes.images[number].shape[:2]
    labeled = scenes.boxes[number]
    if len(labeled) and rng.random() < 0.8:
        box = labeled[rng.integers(len(labeled))]
        middle = (box[:2] + box[2:]) / 2
        return middle - edge * rng.uniform(0.15, 0.85, size=2)
    room = np.array([width, height]) - edge
    return rng.uniform(np.minimum(room, 0), np.maximum(room, 0))


def _targets(scenes: Scenes, number: int, corner: np.ndarray, scale: float, crop_px: int) -> dict[str, torch.Tensor]:
    moved = (scenes.boxes[number] - np.tile(corner, 2)) * scale
    shown = boxes.clip(moved, crop_px, crop_px)
    left = boxes.area(shown) / np.maximum(boxes.area(moved), 1e-6)
    seen = left > 0
    edges = np.minimum(shown[:, 2] - shown[:, 0], shown[:, 3] - shown[:, 1])
    vague = (left < 0.4) | (edges < SMALLEST_PX)
    return {
        "boxes": torch.from_numpy(shown[seen].astype(np.float32)).reshape(-1, 4),
        "labels": torch.from_numpy(scenes.labels[number][seen]).long(),
        "iscrowd": torch.from_numpy(vague[seen]),
    }


def average_precision(detector: Detector, scenes: Scenes) -> dict[str, float]:
    """AP at an IoU of 0.5 by category, as PASCAL VOC 2010 has it: the area under the falling precision envelope.

    Images that do not label a category do not count in it.
    """
    found = [detect(detector, [image], threshold=0.02)[0] for image in scenes.images]
    result = {}
    for kind, category in CATEGORY_IDS.items():
        rows = []
        total = 0
        for number, (regions, truth, labels) in enumerate(zip(found, scenes.boxes, scenes.labels, strict=True)):
            if category in scenes.not_exhaustive[number]:
                continue
            wanted = truth[labels == category]
            total += len(wanted)
            mine = [region for region in regions if region.kind == kind]
            rows += _hits(mine, wanted)
        result[f"ap50_{kind.value}"] = _area(sorted(rows, reverse=True), total)
    return result


def _hits(regions: list[Region], wanted: np.ndarray) -> list[tuple[float, bool]]:
    """Score and hit of each region; each wanted box is found once, by its best-scored region."""
    free = np.ones(len(wanted), dtype=bool)
    rows = []
    for region in regions:
        overlap = boxes.iou([region.box_xyxy], wanted)[0] * free
        best = int(overlap.argmax()) if len(wanted) else -1
        hit = best >= 0 and overlap[best] >= 0.5
        if hit:
            free[best] = False
        rows.append((region.score, bool(hit)))
    return rows


def _area(rows: list[tuple[float, bool]], total: int) -> float:
    if not rows or not total:
        return 0.0
    hits = np.cumsum([hit for _, hit in rows])
    precision = np.maximum.accumulate((hits / np.arange(1, len(rows) + 1))[::-1])[::-1]
    recall = hits / total
    return float(np.sum(np.diff(recall, prepend=0) * precision))
