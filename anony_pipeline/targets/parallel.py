"""The same work on many images, in as many processes as there are cores."""

import itertools
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

import cv2

from anony_pipeline.runtime import progress

Job = TypeVar("Job")
Result = TypeVar("Result")

WORTH_IT = 200
"""Fewer jobs are done before new processes have imported what they need."""
AT_ONCE = 16
"""Jobs that are handed to a process together."""


def each(
    function: Callable[[Job], Result], jobs: Sequence[Job], what: str, *, workers: int | None = None
) -> Iterator[Result]:
    """Yield a function's results in the order of the jobs.

    Args:
        function: At a module's top level, for it is sent to other processes.
        jobs: Its arguments.
        what: What is being done, for whoever watches.
        workers: Processes; chosen by the number of jobs and cores if None.
    """
    count = workers if workers is not None else (_cores() if len(jobs) >= WORTH_IT else 1)
    if count <= 1:
        yield from map(function, progress.track(jobs, what))
        return
    # "spawn": a forked child of a process that uses CUDA or threads can hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(count, context, initializer=_single_threaded) as pool:
        batches = [jobs[start : start + AT_ONCE] for start in range(0, len(jobs), AT_ONCE)]
        results = pool.map(_batch, itertools.repeat(function), batches)
        for result, _ in zip(itertools.chain.from_iterable(results), progress.track(jobs, what), strict=True):
            yield result


def _batch(function: Callable[[Job], Result], jobs: Sequence[Job]) -> list[Result]:
    return [function(job) for job in jobs]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _single_threaded() -> None:
    cv2.setNumThreads(1)
