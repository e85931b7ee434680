"""Progress that a person can watch, on a terminal, in a log and in a notebook alike."""

import logging
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

Item = TypeVar("Item")
log = logging.getLogger("anony_pipeline")
console = Console(stderr=True)

LOG_EVERY_SECONDS = 10.0


def bar_columns() -> tuple[ProgressColumn, ...]:
    """What a bar on a terminal shows: what is done, how far it is, and for how long."""
    return (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )


def track(items: Iterable[Item], what: str, total: int | None = None) -> Iterator[Item]:
    """Yield the items and show how far it is: a bar on a terminal, a log line every ten seconds elsewhere.

    Args:
        items: What is worked on.
        what: What is being done, in a few words.
        total: How many items there are, where ``len(items)`` can't say it.
    """
    count = total if total is not None else len(items) if isinstance(items, Sized) else None
    if console.is_terminal:
        with Progress(*bar_columns(), console=console, transient=True) as progress:
            yield from progress.track(items, total=count, description=what)
        return
    begin = said = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - said >= LOG_EVERY_SECONDS:
            said = now
            log.info("%s: %d of %s, %.1f a second", what, done, count or "?", done / (now - begin))
