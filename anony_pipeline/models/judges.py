"""The card that says which judge made a figure."""

from dataclasses import asdict, dataclass
from typing import Literal

JudgeKind = Literal["recognizer", "reader", "detector", "features"]


@dataclass(frozen=True)
class JudgeCard:
    """Who measured. Figures of judges with different cards are never compared.

    Attributes:
        kind: What it judges by.
        name: The judge's own name, with its architecture.
        library: The library that loads and runs it, with its version.
        weights: The weights' file or pack, without the path of this machine.
        sha256: Of the weights' file, in hexadecimal.
    """

    kind: JudgeKind
    name: str
    library: str
    weights: str
    sha256: str

    def as_dict(self) -> dict[str, str]:
        """The card as JSON values, for a scorecard."""
        return asdict(self)
