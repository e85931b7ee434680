"""The same work on many images, in as many processes as there are cores."""

import itertools
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Self, TypeVar

import cv2

from anony_pipeline.runtime import progress

Job = TypeVar("Job")
Result = TypeVar("Result")

WORTH_IT = 200
"""Fewer jobs are done before new processes have imported what they need."""
AT_ONCE = 16
"""Jobs that are handed to a process together."""


class Workers:
    """Processes for work on many images, started when they are first needed and kept until the block ends."""

    def __init__(self, jobs: int, workers: int | None = None) -> None:
        """Choose how many.

        Args:
            jobs: About how many there will be.
            workers: Processes; chosen by the number of jobs and cores if None.
        """
        self.count = workers if workers is not None else (cores() if jobs >= WORTH_IT else 1)
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        """Nothing is started yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the processes."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def each(self, function: Callable[[Job], Result], jobs: Sequence[Job], what: str) -> Iterator[Result]:
        """Yield a function's results in the order of the jobs.

        Args:
            function: At a module's top level, for it is sent to other processes.
            jobs: Its arguments.
            what: What is being done, for whoever watches.
        """
        if self.count <= 1:
            yield from map(function, progress.track(jobs, what))
            return
        if self._pool is None:
            self._pool = pool_of(self.count)
        batches = [jobs[start : start + AT_ONCE] for start in range(0, len(jobs), AT_ONCE)]
        results = self._pool.map(_batch, itertools.repeat(function), batches)
        for result, _ in zip(itertools.chain.from_iterable(results), progress.track(jobs, what), strict=True):
            yield result


def each(function: Callable[[Job], Result], jobs: Sequence[Job], what: str) -> Iterator[Result]:
    """As `Workers.each`, with processes for these jobs alone."""
    with Workers(len(jobs)) as workers:
        yield from workers.each(function, jobs, what)


def _batch(function: Callable[[Job], Result], jobs: Sequence[Job]) -> list[Result]:
    return [function(job) for job in jobs]


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def single_threaded() -> None:
    """Keep OpenCV to one thread: where each core has a process, more would only wait for each other."""
    cv2.setNumThreads(1)


def pool_of(workers: int, initializer: Callable[[], None] = single_threaded) -> ProcessPoolExecutor:
    """So many new processes, each of one thread.

    Args:
        workers: How many.
        initializer: What each begins with; at a module's top level.
    """
    # "spawn": a forked child of a process that uses CUDA or threads can hang.
    return ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=initializer)
