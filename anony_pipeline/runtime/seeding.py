"""Randomness as a function of (seed, stream, step): a resumed run draws what the unbroken one would have."""

import hashlib

import numpy as np


def seed_for(seed: int, stream: str, step: int = 0) -> int:
    """A 63-bit seed for one named stream at one step.

    Args:
        seed: The run's seed.
        stream: What the numbers are for; two streams never share numbers.
        step: The step, or any other counter.

    >>> seed_for(0, "noise", 1) == seed_for(0, "noise", 1) != seed_for(0, "noise", 2)
    True
    """
    digest = hashlib.sha256(f"{seed}/{stream}/{step}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def numpy_generator(seed: int, stream: str, step: int = 0) -> np.random.Generator:
    """NumPy's generator for one stream at one step."""
    return np.random.default_rng(seed_for(seed, stream, step))
