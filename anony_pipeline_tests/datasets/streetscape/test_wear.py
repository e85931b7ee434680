import numpy as np
import pytest

from anony_pipeline.datasets.streetscape import wear


@pytest.mark.parametrize("covered", [0.8, 1.0])
def test_things_are_worn_as_often_as_numpys_choice_has_it(covered):
    """The same chance draws the same glasses as `Generator.choice` does."""
    shares = np.array([0.10, 0.08, 0.05]) * covered
    for seed in range(300):
        mine = wear.sample_wear(np.random.default_rng(seed), covered=covered).glasses
        assert mine == np.random.default_rng(seed).choice(wear.GLASSES, p=[1 - shares.sum(), *shares])
