"""Scorecards side by side: only those that the same judges made on the same data."""

from collections.abc import Sequence
from typing import NamedTuple

from anony_pipeline.errors import AnonyPipelineError
from anony_pipeline.evaluation.schema import METRICS, Figure, Scorecard


class Compared(NamedTuple):
    """One metric over several scorecards.

    Attributes:
        metric: A key of `METRICS`.
        figures: One a scorecard, None where it lacks the figure.
        clear: Whether the last one's 95 % interval lies beside the first one's: better, worse, or None if neither.
    """

    metric: str
    figures: tuple[Figure | None, ...]
    clear: str | None


def reasons_against(first: Scorecard, second: Scorecard) -> list[str]:
    """Why two scorecards may not be compared; empty if they may."""
    reasons = []
    if first.data != second.data:
        reasons.append(
            f"other data: {first.data.fingerprint} with {first.data.images} images, "
            f"{second.data.fingerprint} with {second.data.images}"
        )
    for key in sorted(first.judges.keys() | second.judges.keys()):
        # The training panel's detector is the checkpoint's own: it is another one by design.
        mine, other = first.judges.get(key), second.judges.get(key)
        if key == "detector/training" or (mine and other and mine.sha256 == other.sha256):
            continue
        names = [f"{judge.name} {judge.sha256[:8]}" if judge else "none" for judge in (mine, other)]
        reasons.append(f"another judge {key}: {names[0]}, {names[1]}")
    return reasons


def compare(cards: Sequence[Scorecard], names: Sequence[str] | None = None) -> list[Compared]:
    """Put the headline rows of scorecards side by side.

    Args:
        cards: At least two.
        names: What they are called in an error; their own names if None.

    Raises:
        AnonyPipelineError: If other judges or other data made one of them.
    """
    names = names or [name_of(card) for card in cards]
    for name, card in zip(names[1:], cards[1:], strict=True):
        if reasons := reasons_against(cards[0], card):
            raise AnonyPipelineError(
                "the scorecards can't be compared: figures of other judges or data mean something else",
                where=f"{names[0]} and {name}",
                got="; ".join(reasons),
                allowed="one data set and the same judges' weights",
                do="evaluate both anew with one configuration",
            )
    rows = [card.row() for card in cards]
    found = []
    for metric in METRICS:
        figures = tuple(row.figures.get(metric) if row is not None else None for row in rows)
        if any(figure is not None and figure.value is not None for figure in figures):
            found.append(Compared(metric, figures, _clear(figures[0], figures[-1])))
    return found


def name_of(card: Scorecard) -> str:
    """What a scorecard is called in tables."""
    return f"{card.name} {card.subject.checkpoint}"


def _clear(first: Figure | None, last: Figure | None) -> str | None:
    if first is None or last is None or first.interval is None or last.interval is None:
        return None
    above, below = last.interval[0] > first.interval[1], last.interval[1] < first.interval[0]
    if not above and not below:
        return None
    return "better" if above == (first.better == "higher") else "worse"
