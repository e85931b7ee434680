"""Random numbers are a function of seed, stream and step."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from anony_pipeline.runtime import seeding

INTEGERS = st.integers(-(2**40), 2**40)


@given(seed=INTEGERS, stream=st.text(max_size=8), step=INTEGERS)
def test_the_same_place_gives_the_same_numbers(seed, stream, step):
    first, second = (seeding.numpy_generator(seed, stream, step).random(4) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert 0 <= seeding.seed_for(seed, stream, step) < 2**63


def test_no_two_of_many_places_share_a_seed():
    places = {(seed, stream, step) for seed in range(5) for stream in "abcd" for step in range(100)}
    assert len({seeding.seed_for(*place) for place in places}) == len(places)
