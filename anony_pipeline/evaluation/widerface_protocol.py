"""WIDERFace's own protocol: average precision on its easy, medium and hard faces, with its rules for the others.

Yang et al., "WIDER FACE: A Face Detection Benchmark" (CVPR 2016); the procedure is that of the official ``eval_tools``
(MATLAB). A list names the faces that count; a detection on any other annotated face is neither right nor wrong. Scores
are stretched to ``[0, 1]`` over the whole set, precision and recall are taken at 1,000 thresholds, and the area is
that of VOC 2010.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from scipy import io

from anony_pipeline.errors import DatasetError

DIFFICULTIES = ("easy", "medium", "hard")
THRESHOLDS = 1000
MIN_IOU = 0.5

Truth = dict[str, "Image"]
"""The annotated images by name: the file's without its folder and suffix."""


@dataclass(frozen=True)
class Image:
    """What is annotated in one image.

    Attributes:
        boxes_xywh: ``(N, 4)`` all faces, in pixels.
        counted: By difficulty, ``(N,)`` bool: which of them count.
    """

    boxes_xywh: np.ndarray
    counted: dict[str, np.ndarray]


def load(folder: Path) -> Truth:
    """Read the official ground truth.

    Args:
        folder: ``eval_tools/ground_truth`` with ``wider_face_val.mat`` and ``wider_{easy,medium,hard}_val.mat``.

    Raises:
        DatasetError: If a file is missing or holds something else.
    """
    files = {name: folder / f"wider_{name}_val.mat" for name in ("face", *DIFFICULTIES)}
    try:
        contents = {name: io.loadmat(file) for name, file in files.items()}
        names = [_text(cell) for event in contents["face"]["file_list"] for cell in event[0][:, 0]]
        boxes = [np.array(cell, np.float64) for event in contents["face"]["face_bbx_list"] for cell in event[0][:, 0]]
        lists = {
            name: [np.ravel(cell).astype(int) for event in contents[name]["gt_list"] for cell in event[0][:, 0]]
            for name in DIFFICULTIES
        }
    except (OSError, ValueError, LookupError, TypeError, io.matlab.MatReadError) as error:
        raise DatasetError(
            "WIDERFace's ground truth can't be read",
            where=folder,
            got=f"{type(error).__name__}: {error}",
            allowed=" ".join(file.name for file in files.values()),
            do="unpack eval_tools.zip from WIDERFace's page, and name its folder ground_truth",
        ) from error
    return {
        name: Image(found.reshape(-1, 4), {key: _mask(lists[key][index], len(found)) for key in DIFFICULTIES})
        for index, (name, found) in enumerate(zip(names, boxes, strict=True))
    }


def _text(cell: Any) -> str:  # noqa: ANN401 - scipy nests cells in arrays
    return str(cell[0])


def _mask(places: np.ndarray, count: int) -> np.ndarray:
    """MATLAB counts from 1."""
    chosen = np.zeros(count, bool)
    chosen[places - 1] = True
    return chosen


def name_of(file_name: str) -> str:
    """An image's name in the ground truth, from its file's."""
    return PurePosixPath(file_name).stem


def average_precision(
    truth: Truth, detections: Mapping[str, np.ndarray], names: Sequence[str] | None = None
) -> dict[str, float]:
    """Average precision by difficulty.

    Args:
        truth: What is annotated.
        detections: By image, ``(M, 5)`` x, y, width, height and score, in any order. An image without an entry has
            none; detections on images without faces count for nothing, as in the official procedure.
        names: Only these images; None takes all.

    Returns:
        By difficulty, in ``[0, 1]``; NaN where no face counts.
    """
    chosen = list(truth) if names is None else [name for name in names if name in truth]
    found = {name: rows for name in chosen if len(rows := _sorted(detections.get(name)))}
    low = min((rows[-1, 4] for rows in found.values()), default=0.0)
    spread = max((rows[0, 4] for rows in found.values()), default=1.0) - low
    judged = [(truth[name], rows) for name, rows in found.items() if len(truth[name].boxes_xywh)]
    scores = _flat([(rows[:, 4] - low) / spread if spread > 0 else rows[:, 4] * 0 for _, rows in judged])
    order = np.argsort(-scores, kind="stable")
    # How many detections of the whole set reach each threshold: what one image adds to the curve is what of its own
    # detections reach it, so that all of them can be counted at once.
    thresholds = 1 - np.arange(1, THRESHOLDS + 1) / THRESHOLDS
    reached = np.searchsorted(-scores[order], -thresholds, side="right")
    matches = [_match(image, rows) for image, rows in judged]
    results = {}
    for key in DIFFICULTIES:
        faces = sum(int(truth[name].counted[key].sum()) for name in chosen)
        outcomes = [_outcome(image.counted[key], *match) for (image, _), match in zip(judged, matches, strict=True)]
        hits, proposals = (_flat([pair[i] for pair in outcomes])[order].cumsum() for i in (0, 1))
        results[key] = _area(np.append(0, hits)[reached], np.append(0, proposals)[reached], faces)
    return results


def _flat(parts: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.empty(0), *parts])


def _sorted(rows: np.ndarray | None) -> np.ndarray:
    """Best first, as ``(M, 5)`` float64."""
    found = np.asarray([] if rows is None else rows, np.float64).reshape(-1, 5)
    return found[np.argsort(-found[:, 4], kind="stable")]


def _match(image: Image, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The face that each detection overlaps most, and whether by enough. The tool's boxes hold their last pixel."""
    boxes, found = image.boxes_xywh, rows[:, :4]
    shared = np.ones((len(found), len(boxes)))
    for axis in (0, 1):
        low = np.maximum(found[:, None, axis], boxes[None, :, axis])
        ends = found[:, None, axis] + found[:, None, axis + 2], boxes[None, :, axis] + boxes[None, :, axis + 2]
        shared *= np.maximum(np.minimum(*ends) - low + 1, 0)
    areas = (found[:, 2] + 1) * (found[:, 3] + 1), (boxes[:, 2] + 1) * (boxes[:, 3] + 1)
    overlap = shared / (areas[0][:, None] + areas[1][None, :] - shared)
    best = overlap.argmax(axis=1)
    return best, overlap[np.arange(len(best)), best] >= MIN_IOU


def _outcome(counted: np.ndarray, best: np.ndarray, enough: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which detections, best first, find a face that counts for the first time, and which ones count at all.

    A second detection of a found face counts as wrong; one of a face that does not count is left out.
    """
    hit = enough & counted[best]
    firsts = np.unique(np.where(hit, best, -1), return_index=True)[1]
    new = np.zeros(len(best), bool)
    new[firsts] = True
    return new & hit, ~(enough & ~counted[best])


def _area(hits: np.ndarray, proposals: np.ndarray, faces: int) -> float:
    """VOC's area under precision (made monotonic) over recall."""
    if not faces:
        return float("nan")
    recall = np.concatenate([[0], hits / faces, [1]])
    precision = np.concatenate([[0], np.divide(hits, proposals, out=np.zeros(len(hits)), where=proposals > 0), [0]])
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float((np.diff(recall) * envelope[1:]).sum())
