"""Each trait of a finish does what it says and no more, and without one a plate is drawn as the weights know it."""

from dataclasses import fields

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anony_pipeline.errors import ConfigError
from anony_pipeline.plates import finish, render, serials
from anony_pipeline.plates.finish import Finish
from anony_pipeline.plates.styles import load_styles

STYLES = load_styles()
TRAITS = [field.name for field in fields(Finish)]
SIZE_HW = (110, 520)
SERIAL = "AB-123-CD"

# Columns' and rows' mean gray levels of plates that were drawn before there was a finish: what the shipped weights saw.
KNOWN = {
    ("FR", 0.0): [
        175.6,
        219.2,
        210.2,
        174.2,
        132.0,
        167.2,
        159.6,
        141.3,
        152.7,
        180.4,
        166.8,
        159.5,
        183.9,
        212.9,
        216.8,
        186.9,
    ],
    ("FR", 0.6): [
        168.9,
        207.2,
        198.5,
        167.3,
        113.7,
        139.3,
        131.6,
        120.4,
        117.7,
        137.9,
        125.5,
        124.4,
        129.4,
        150.3,
        152.6,
        136.3,
    ],
    ("RO", 1.0): [
        148.9,
        180.2,
        178.2,
        175.2,
        111.0,
        110.7,
        118.5,
        141.9,
        96.6,
        108.4,
        104.0,
        124.8,
        89.1,
        104.9,
        110.7,
        107.8,
    ],
}


def drawn(given=None, *, style="FR", seed=0, size_hw=SIZE_HW):
    rng = np.random.default_rng(seed)
    return render.render(STYLES[style], SERIAL, size_hw, rng=rng, finish=given).astype(np.float32)


def only(trait, amount=0.8):
    return Finish(**{trait: 4 if trait == "screws" else amount})


def ink():
    return render.text_mask(STYLES["FR"], SERIAL, SIZE_HW)


@pytest.mark.parametrize(("key", "wear"), KNOWN)
def test_without_a_finish_plates_are_drawn_as_they_ever_were(key, wear):
    style = STYLES[key]
    serial = serials.draw(style, np.random.default_rng(5))
    image = render.render(style, serial, (64, 256), rng=np.random.default_rng(7), wear=wear)
    means = image.reshape(4, 16, 4, 64, 3).mean(axis=(1, 3, 4))
    np.testing.assert_allclose(means.ravel(), KNOWN[key, wear], atol=0.6)


def test_a_finish_of_nothing_changes_nothing():
    np.testing.assert_array_equal(drawn(Finish()), drawn())


@pytest.mark.parametrize("trait", [trait for trait in TRAITS if trait != "screws"])
def test_more_of_a_trait_changes_more(trait):
    flat = drawn()
    changes = [np.abs(drawn(only(trait, amount)) - flat).mean() for amount in (0.2, 0.6, 1.0)]
    assert 0 < changes[0] < changes[1] < changes[2]


@pytest.mark.parametrize("trait", TRAITS)
def test_a_trait_is_where_it_is_whatever_the_others_are(trait):
    # Dirt, shadow and the like keep their places when another trait is added.
    other = "glare" if trait != "glare" else "dirt"
    alone = np.abs(drawn(only(trait)) - drawn()).sum(axis=2)
    both = Finish(**{trait: 4 if trait == "screws" else 0.8, other: 0.1})
    beside = np.abs(drawn(both) - drawn(only(other, 0.1))).sum(axis=2)
    assert np.corrcoef(alone.ravel(), beside.ravel())[0, 1] > 0.8


def test_raised_characters_catch_the_light_from_above_and_turn_away_below():
    change = (drawn(only("embossing")) - drawn()).mean(axis=2)
    above, below = (cv2.erode(1 - ink(), np.ones((3, 3))) > 0.99 for _ in range(2))
    shifted_down, shifted_up = np.roll(ink(), 3, axis=0), np.roll(ink(), -3, axis=0)
    assert change[above & (shifted_up > 0.9)].mean() > 1
    assert change[below & (shifted_down > 0.9)].mean() < -1
    far = cv2.dilate(ink(), np.ones((25, 25))) == 0
    assert np.abs(change[far]).max() < 1


def test_a_headlight_comes_back_from_the_sheeting_and_not_from_the_ink():
    gray = np.full((*SIZE_HW, 3), 100.0, np.float32)
    seen = finish._thrown_back(gray, 1 - ink(), 0.8, np.random.default_rng(0)).mean(axis=2)
    assert seen[ink() < 0.01].mean() > 1.5 * seen[ink() > 0.99].mean()
    # A white serial on black is the part that reflects.
    white = STYLES["MX"].model_copy(
        update={"colors": STYLES["FR"].colors.model_copy(update={"text": "#f0f0f0", "background": "#101010"})}
    )
    assert render._flat(white, np.zeros((4, 8, 3), np.float32), np.zeros((4, 8), np.float32)).ink_reflects


@pytest.mark.parametrize("count", [2, 4])
def test_screws_are_as_many_as_asked_and_cover_little_text(count):
    changed = np.abs(drawn(Finish(screws=count)) - drawn()).max(axis=2) > 40
    closed = cv2.morphologyEx(changed.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((9, 9)))
    sizes = cv2.connectedComponentsWithStats(closed)[2][1:, cv2.CC_STAT_AREA]
    assert (sizes > 30).sum() == count
    assert ink()[changed].sum() < 0.02 * ink().sum()


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(sorted(STYLES)), st.integers(0, 1000), st.floats(0.05, 1))
def test_a_frame_covers_no_character(key, seed, amount):
    style = STYLES[key]
    serial = serials.draw(style, np.random.default_rng(seed))
    height = round(200 * style.size_mm[1] / style.size_mm[0])
    flat, framed = (
        render.render(style, serial, (height, 200), rng=np.random.default_rng(0), finish=one)
        for one in (None, Finish(frame=amount))
    )
    mask = render.text_mask(style, serial, (height, 200)) > 0.5
    np.testing.assert_array_equal(flat[mask], framed[mask])


def test_dirt_is_heavier_near_the_lower_edge():
    change = np.mean(
        [np.abs(drawn(only("dirt"), seed=seed) - drawn(seed=seed)).mean(axis=(1, 2)) for seed in range(8)], axis=0
    )
    assert change[-30:].mean() > 1.2 * change[:30].mean()


def test_a_shadow_darkens_and_a_glare_brightens():
    assert (drawn(only("shadow")) <= drawn()).all()
    assert (drawn(only("glare")) >= drawn()).all()


def test_the_same_chance_gives_the_same_plate():
    sampled = Finish.sample(np.random.default_rng(3))
    np.testing.assert_array_equal(drawn(sampled, seed=4), drawn(sampled, seed=4))


@pytest.mark.parametrize("size_hw", [(4, 16), (9, 40), (300, 1200)])
def test_a_finish_holds_at_any_size(size_hw):
    image = drawn(Finish(1, 1, 4, 1, 1, 1, 1, 1), size_hw=size_hw)
    assert image.shape == (*size_hw, 3)
    assert np.isfinite(image).all()


@pytest.mark.parametrize("trait", TRAITS)
def test_what_is_out_of_range_is_refused_by_name(trait):
    with pytest.raises(ConfigError, match=rf"out of range\n.*{trait}"):
        Finish(**{trait: 3 if trait == "screws" else 1.5})


def test_a_finish_needs_a_source_of_chance():
    with pytest.raises(ConfigError, match="a finish is random"):
        render.render(STYLES["FR"], SERIAL, (64, 256), finish=Finish())
