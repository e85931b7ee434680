"""The ledger: one row a region, saying what was done and how it was verified. No pixels, embeddings or read texts."""

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from anony_pipeline.structures.regions import Kind, Region

Done = Literal["generated", "texture", "blur", "pixelate", "solid"]


@dataclass(frozen=True)
class LedgerRow:
    """What happened to one region.

    Attributes:
        region: Its number in the image, from 0.
        kind: Face or plate.
        box_xyxy: The region in pixels, as found or given.
        mask_xyxy: The whole pixels that were replaced; outside of all rows' masks the image is as it was, to the bit.
        score: The detector's; 1 for given boxes.
        style: The plate style that was rendered, None for faces.
        method: What was done.
        reason: Why it was not generated, None if it was.
        verified_by: The judge that compared original and result; None where nothing is left to compare, or where the
            original's serial could not be read.
        similarity: Cosine of original and result for faces; None for plates, and where nothing was compared.
        seed: Of the accepted generation.
        serial: The *new* serial that was rendered; never the original.
        annotation_id: The given box's id.
    """

    region: int
    kind: Kind
    box_xyxy: tuple[float, float, float, float]
    mask_xyxy: tuple[int, int, int, int]
    score: float
    method: Done
    style: str | None = None
    reason: str | None = None
    verified_by: str | None = None
    similarity: float | None = None
    seed: int | None = None
    serial: str | None = None
    annotation_id: int | None = None

    @classmethod
    def begun(cls, number: int, region: Region, mask_xyxy: tuple[int, int, int, int]) -> "LedgerRow":
        """The row of a region that is solid until something better is verified."""
        return cls(
            region=number,
            kind=region.kind,
            box_xyxy=region.box_xyxy,
            mask_xyxy=mask_xyxy,
            score=region.score,
            method="solid",
            reason="not done yet",
            annotation_id=region.annotation_id,
        )

    def changed(self, **values: Any) -> "LedgerRow":  # noqa: ANN401 - fields of this class
        """A copy with other values."""
        return replace(self, **values)

    def as_json(self, image: str) -> dict[str, Any]:
        """The row as JSON values, with its image's relative name."""
        row = {name: value for name, value in asdict(self).items() if value is not None}
        row["box_xyxy"] = [round(float(value), 2) for value in self.box_xyxy]
        row["score"] = round(self.score, 4)
        if self.similarity is not None:
            row["similarity"] = round(self.similarity, 3)
        return {"image": image, **row}
