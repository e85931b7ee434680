"""What the anonymizer does when, as plain numbers."""

from dataclasses import dataclass
from typing import Literal

from anony_pipeline.config.schema import Profile

Treatment = Literal["generate", "blur", "pixelate", "solid"]
TREATMENTS: dict[Profile, Treatment] = {"realistic": "generate", "blur": "blur", "solid": "solid"}


@dataclass(frozen=True)
class Policy:
    """The rules of one anonymizer.

    Attributes:
        threshold: Detected faces below this score are left alone.
        plate_threshold: The same for plates: a detector's scores mean different things for the two kinds.
        treatment: What is done to regions that are large enough.
        tiny: What is done to the others, of which a generator knows nothing. `texture` continues what surrounds them,
            and is solid where there is too little of it.
        min_region_px: Regions whose shorter edge is smaller are tiny.
        max_similarity: A generated face whose cosine to the original is above it is refused.
        attempts: Generations before a region is filled solid.
        batch_size: Crops that the generator fills at once.
        solid_color: RGB of the last resort.
    """

    threshold: float = 0.3
    plate_threshold: float = 0.3
    treatment: Treatment = "generate"
    tiny: Literal["texture", "pixelate", "solid"] = "solid"
    min_region_px: float = 8
    max_similarity: float = 0.4
    attempts: int = 2
    batch_size: int = 8
    solid_color: tuple[int, int, int] = (96, 96, 96)
