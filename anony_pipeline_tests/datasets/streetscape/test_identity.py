import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anony_pipeline.datasets.streetscape import identity

SEEDS = st.integers(0, 2**40)


@given(SEEDS)
def test_a_seed_is_always_the_same_person(seed):
    first = identity.sample_person(seed)
    identity.sample_person.cache_clear()
    assert identity.sample_person(seed) == first


@given(SEEDS)
def test_skin_and_hair_are_colors(seed):
    person = identity.sample_person(seed)
    for color in (person.skin_rgb, person.hair_rgb):
        assert ((color > 0) & (color < 1)).all()


def test_three_hundred_people_are_all_different():
    shapes = np.array([identity.sample_person(seed).shape for seed in range(300)])
    distances = np.linalg.norm(shapes[:, None] - shapes[None], axis=2) + 99 * np.eye(300)
    # Standard scores in 52 dimensions: two strangers lie about sqrt(2 * 52) apart.
    assert distances.min() > 4


def test_people_span_skin_tones_ages_and_styles():
    crowd = [identity.sample_person(seed) for seed in range(1000)]
    tones, ages = np.array([p.skin_tone for p in crowd]), np.array([p.age for p in crowd])
    assert np.histogram(tones, bins=5, range=(0, 1))[0].min() > 60
    assert ages.min() < 20
    assert ages.max() > 70
    assert {p.hair_style for p in crowd} == set(identity.HAIR_STYLES)
    assert {p.beard for p in crowd} == set(identity.BEARDS)


def test_skin_gets_darker_with_its_tone():
    person = identity.sample_person(0)
    tones = [person.__class__(**{**person.__dict__, "skin_tone": tone}).skin_rgb.sum() for tone in (0, 0.3, 0.6, 1)]
    assert tones == sorted(tones, reverse=True)


def test_an_unknown_shape_is_no_shape():
    with pytest.raises(KeyError, match="beak_length"):
        identity.sample_person(0).score("beak_length")
