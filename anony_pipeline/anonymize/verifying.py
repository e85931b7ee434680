"""Does a generated region still show whom or what it showed? Asked of the judges before a region is let out."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from anony_pipeline.models.reader import INPUT_HW, Reader
from anony_pipeline.models.recognizer import Recognizer, align
from anony_pipeline.ops import crops
from anony_pipeline.plates import serials
from anony_pipeline.structures.regions import Kind, Region

PLATE_MARGIN = 0.04
"""Around a plate's corners: found corners are a little off, and readers were made for plates with a small margin."""
MIN_READING = 4
"""A shorter reading of the original says nothing, for anything may be within one edit of it, unless it comes again."""


class Verdict(NamedTuple):
    """What a judge says of one result.

    Attributes:
        accepted: Whether it may be let out.
        judge: The judge's name; None where it had nothing to compare.
        reason: Why not.
        similarity: Cosine to the original for faces, None for plates.
    """

    accepted: bool
    judge: str | None
    reason: str | None = None
    similarity: float | None = None


class Verifier:
    """Compares originals with results. Embeddings and readings stay in memory and die with it."""

    def __init__(self, recognizer: Recognizer | None, reader: Reader | None, max_similarity: float) -> None:
        """Keep the judges.

        Args:
            recognizer: Without it no generated face is accepted.
            reader: Without it no generated plate is accepted.
            max_similarity: The cosine above which a face is the same.
        """
        self.recognizer, self.reader, self.max_similarity = recognizer, reader, max_similarity

    def originals(self, images_rgb: Sequence[np.ndarray], regions: Sequence[Region]) -> "list[np.ndarray | str | None]":
        """What must not be found again: a face's embedding, a plate's reading; None where no judge is there.

        Args:
            images_rgb: The image of each region, as it was.
            regions: Faces and plates.
        """
        return self._perceive(images_rgb, regions)

    def verdicts(
        self,
        originals_rgb: Sequence[np.ndarray],
        results_rgb: Sequence[np.ndarray],
        regions: Sequence[Region],
        known: "Sequence[np.ndarray | str | None]",
    ) -> list[Verdict]:
        """Judge results, in the images that will be let out.

        Args:
            originals_rgb: The image of each region, as it was.
            results_rgb: The same with all results in place.
            regions: Faces and plates.
            known: What `originals` gave for them.
        """
        seen = self._perceive(results_rgb, regions)
        return [
            self._verdict(original, result, region, before, after)
            for original, result, region, before, after in zip(
                originals_rgb, results_rgb, regions, known, seen, strict=True
            )
        ]

    def _verdict(
        self,
        original: np.ndarray,
        result: np.ndarray,
        region: Region,
        before: np.ndarray | str | None,
        after: np.ndarray | str | None,
    ) -> Verdict:
        if _same_pixels(original, result, region):
            return Verdict(False, None, "the result is the original")
        if isinstance(before, np.ndarray) and isinstance(after, np.ndarray) and self.recognizer is not None:
            name, similarity = self.recognizer.judge.name, float(before @ after)
            if not math.isfinite(similarity):
                return Verdict(False, name, "the recognizer's answer is no number")
            near = similarity > self.max_similarity
            reason = "the recognizer still takes it for the same person" if near else None
            return Verdict(not near, name, reason, similarity)
        if isinstance(before, str) and isinstance(after, str) and self.reader is not None:
            was_read = len(before) >= MIN_READING
            # Whoever reads more than the serial has read the serial.
            near = serials.edit_distance_within(before, after) <= 1 if was_read else bool(before) and before == after
            judge = self.reader.judge.name if was_read or near else None
            return Verdict(not near, judge, "the original serial can still be read" if near else None)
        return Verdict(False, None, "there is no judge to verify it")

    def _perceive(self, images_rgb: Sequence[np.ndarray], regions: Sequence[Region]) -> "list[np.ndarray | str | None]":
        perceived: list[np.ndarray | str | None] = [None] * len(regions)
        faces = [i for i, region in enumerate(regions) if region.kind is Kind.FACE]
        plates = [i for i, region in enumerate(regions) if region.kind is Kind.PLATE]
        if self.recognizer is not None and faces:
            size = self.recognizer.input_size
            embedded = self.recognizer.embed([align(images_rgb[i], regions[i], size) for i in faces])
            for i, embedding in zip(faces, embedded, strict=True):
                perceived[i] = embedding
        if self.reader is not None and plates:
            readings = self.reader.read([plate_crop(images_rgb[i], regions[i]) for i in plates])
            for i, reading in zip(plates, readings, strict=True):
                perceived[i] = serials.normalize(reading.text)
        return perceived


def plate_crop(image_rgb: np.ndarray, region: Region, size_hw: tuple[int, int] = INPUT_HW) -> np.ndarray:
    """Cut a plate as readers want it: straightened by its corners where they are known, by its box otherwise.

    Args:
        image_rgb: ``(H, W, 3)`` uint8.
        region: A plate in pixels of the image.
        size_hw: Height and width of the crop.

    Returns:
        ``(height, width, 3)`` uint8, filled by the plate up to a small margin.
    """
    height, width = size_hw
    if region.quad is None:
        x_min, y_min, x_max, y_max = region.box_xyxy
        margin_x, margin_y = (x_max - x_min) * PLATE_MARGIN, (y_max - y_min) * PLATE_MARGIN
        return crops.cut(image_rgb, (x_min - margin_x, y_min - margin_y, x_max + margin_x, y_max + margin_y), size_hw)
    quad = np.array(region.quad, np.float32)
    x, y = width * PLATE_MARGIN, height * PLATE_MARGIN
    goal = np.array([[x, y], [width - x, y], [width - x, height - y], [x, height - y]], np.float32)
    # A plate that is much larger than the crop would alias: sample finer by a whole factor, then average.
    factor = min(8, max(1, round(float(np.linalg.norm(quad[1] - quad[0])) / width)))
    # cv2 puts a pixel's center at whole numbers, we at halves.
    matrix = cv2.getPerspectiveTransform(quad - 0.5, goal * factor - 0.5)
    fine = cv2.warpPerspective(
        image_rgb, matrix, (width * factor, height * factor), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return fine if factor == 1 else cv2.resize(fine, (width, height), interpolation=cv2.INTER_AREA)


def _same_pixels(original: np.ndarray, result: np.ndarray, region: Region) -> bool:
    x_min, y_min, x_max, y_max = (round(value) for value in region.box_xyxy)
    place = np.s_[max(0, y_min) : max(0, y_max), max(0, x_min) : max(0, x_max)]
    return bool(np.array_equal(original[place], result[place]))
