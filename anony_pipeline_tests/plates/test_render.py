import logging

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anony_pipeline.errors import ConfigError
from anony_pipeline.plates import glyphs, layout, render, serials, strokes
from anony_pipeline.plates.styles import load_styles

STYLES = load_styles()
SHAPES = [shape for style in STYLES.values() for shape in style.shapes.values()]


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(SHAPES), st.integers(0, 2**32 - 1), st.floats(0.2, 1.0))
def test_every_character_stays_in_the_text_area_and_apart_from_the_others(style, seed, ratio):
    serial = serials.draw(style, np.random.default_rng(seed))
    placed = layout.place(style, serial, ratio)
    assert "".join(p.character for p in placed if p.character) == serials.normalize(serial)
    area = np.array(style.text_area_mm) / np.tile(style.size_mm, 2)
    boxes = np.array([p.box for p in placed])
    assert (boxes[:, :2] >= area[:2] - 1e-9).all()
    assert (boxes[:, 2:] <= area[2:] + 1e-9).all()
    beside, below = boxes[1:, 0] >= boxes[:-1, 2] - 1e-9, boxes[1:, 1] >= boxes[:-1, 3] - 1e-9
    assert (beside | below).all()
    assert below.sum() <= style.serial.rows - 1


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(SHAPES), st.integers(0, 2**32 - 1), st.floats(0.3, 1.0), st.integers(16, 400))
def test_no_ink_leaves_the_border_at_any_size(style, seed, ratio, width):
    height = max(4, round(width * style.size_mm[1] / style.size_mm[0]))
    mask = render.text_mask(style, serials.draw(style, np.random.default_rng(seed)), (height, width), font_ratio=ratio)
    area = np.array(style.text_area_mm) / np.tile(style.size_mm, 2) * (width, height, width, height)
    rows, columns = np.nonzero(mask)
    # A pixel that the area's edge cuts may be partly inked.
    assert columns.min() >= np.floor(area[0])
    assert rows.min() >= np.floor(area[1])
    assert columns.max() + 1 <= np.ceil(area[2])
    assert rows.max() + 1 <= np.ceil(area[3])


@pytest.mark.parametrize("size_hw", [(4, 16), (12, 56), (64, 192), (64, 256), (240, 1024)])
@pytest.mark.parametrize("number", range(5))
def test_plates_are_drawn_at_any_size(number, size_hw):
    style = SHAPES[number * len(SHAPES) // 5]
    serial = serials.draw(style, np.random.default_rng(0))
    image = render.render(style, serial, size_hw)
    assert image.shape == (*size_hw, 3)
    assert image.dtype == np.uint8
    assert image.std() > 5


@pytest.mark.parametrize("ratio", [0.4, 0.5, 0.6, 0.68])
def test_the_font_ratio_is_the_height_of_the_ink(ratio):
    mask = render.text_mask(STYLES["FR"], "AB-123-CD", (200, 945), font_ratio=ratio)
    rows = np.nonzero((mask > 0.5).any(axis=1))[0]
    assert rows[-1] + 1 - rows[0] == pytest.approx(ratio * 200, abs=2)


@pytest.mark.parametrize("key", ["BR", "US_CA", "FR"])
def test_characters_are_never_taller_than_their_country_makes_them(key):
    style = STYLES[key]
    tallest = max(p.box[3] - p.box[1] for p in layout.place(style, "ABC-1234", 1.0) if p.character)
    assert tallest * style.size_mm[1] == pytest.approx(style.glyph_height_mm)


def test_a_one_may_be_hardly_more_than_a_bar():
    widths = [glyphs.width_over_height(STYLES[key].font, "1") for key in ("BR", "BR_MERCOSUR")]
    assert widths[0] < 0.75 * widths[1]
    assert widths[0] > STYLES["BR"].font.weight


def test_narrow_characters_stand_in_the_middle_of_cells():
    placed = [p for p in layout.place(STYLES["BR"], "III-1111", 0.45) if p.character]
    middles = np.array([(p.box[0] + p.box[2]) / 2 for p in placed]) * STYLES["BR"].size_mm[0]
    steps = np.diff(middles)[[0, 1, 3, 4, 5]]
    assert np.ptp(steps) < 1e-6
    spacing = STYLES["BR"].spacing
    scale = 0.45 * STYLES["BR"].size_mm[1] / STYLES["BR"].glyph_height_mm
    assert steps[0] == pytest.approx((spacing.cell_mm + spacing.character_mm) * scale)


def test_a_small_plate_is_the_average_of_a_large_one():
    large = render.render(STYLES["DE"], "B AB 1234", (256, 1024)).astype(float)
    small = render.render(STYLES["DE"], "B AB 1234", (32, 128)).astype(float)
    averaged = large.reshape(32, 8, 128, 8, 3).mean(axis=(1, 3))
    assert np.abs(averaged - small).mean() < 3


def test_different_serials_give_different_text_on_equal_ground():
    first, second = (render.render(STYLES["NL"], s, (64, 256)) for s in ("G-123-HJ", "K-987-LP"))
    assert np.abs(first.astype(int) - second).mean() > 5
    np.testing.assert_array_equal(first[:, :20], second[:, :20])


def test_drawing_leaves_no_trace_in_the_cached_ground():
    before = render.render(STYLES["RO"], "CJ 12 ABC", (64, 256))
    render.render(STYLES["RO"], "TM 99 XYZ", (64, 256), rng=np.random.default_rng(0), wear=1)
    np.testing.assert_array_equal(before, render.render(STYLES["RO"], "CJ 12 ABC", (64, 256)))


def test_wear_is_repeatable_and_grows():
    new = render.render(STYLES["FR"], "AB-123-CD", (64, 256)).astype(float)
    worn = [
        render.render(STYLES["FR"], "AB-123-CD", (64, 256), rng=np.random.default_rng(5), wear=w).astype(float)
        for w in (0.2, 0.9, 0.9)
    ]
    np.testing.assert_array_equal(worn[1], worn[2])
    assert 0 < np.abs(worn[0] - new).mean() < np.abs(worn[1] - new).mean()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size_hw": (2, 100)}, "so small"),
        ({"font_ratio": 0}, "font ratio"),
        ({"font_ratio": 1.2}, "font ratio"),
        ({"wear": 2.0}, "wear is out of range"),
        ({"wear": 0.5}, "needs a generator"),
        ({"serial": " - "}, "needs a letter"),
    ],
)
def test_impossible_requests_are_refused(changes, message):
    arguments = {"serial": "AB-123-CD", "size_hw": (64, 256)} | changes
    with pytest.raises(ConfigError, match=message):
        render.render(STYLES["FR"], **arguments)


def test_a_font_that_is_not_installed_is_named_with_its_package(caplog):
    font = STYLES["FR"].font.model_copy(update={"face": "NoSuchFace", "package": "fonts-nosuch"})
    style = STYLES["FR"].model_copy(update={"font": font, "key": "XX"})
    with caplog.at_level(logging.WARNING):
        image = render.render(style, "AB-123-CD", (64, 256))
    assert image.std() > 5
    assert "NoSuchFace" in caplog.text
    assert "fonts-nosuch" in caplog.text


def test_a_missing_fallback_is_an_error():
    with pytest.raises(ConfigError, match="neither a plate's font nor its fallback"):
        glyphs.face_file("NoSuchFace", "NoOtherFace", "fonts-nosuch")


def test_two_rows_stand_one_above_the_other():
    grammar = type(STYLES["FR"].serial)(sets={"L": "AB", "D": "12"}, patterns=({"tokens": "L2 / D3"},))
    style = STYLES["unspecified"].model_copy(update={"serial": grammar, "key": "TWO"})
    placed = layout.place(style, "AB 121", 0.9)
    upper, lower = placed[:2], placed[2:]
    assert max(p.box[3] for p in upper) <= min(p.box[1] for p in lower)


@pytest.mark.parametrize("character", strokes.SKELETONS)
@pytest.mark.parametrize(("condense", "weight", "roundness"), [(1.0, 0.14, 0.5), (0.7, 0.1, 0.2)])
def test_skeletons_fill_their_box_with_one_stroke_width(character, condense, weight, roundness):
    ink = strokes.master(character, condense, weight, roundness)
    assert ink.shape[0] == strokes.MASTER_PX
    inked = ink > 127
    for edge in (inked[:3], inked[-3:]):
        assert edge.any()
    columns = np.nonzero(inked.any(axis=0))[0]
    assert columns[0] <= 0.1 * ink.shape[1] + 2
    assert columns[-1] >= 0.85 * ink.shape[1]
    # The widest disc that fits into the ink has the stroke's width, but where strokes meet.
    depth = cv2.distanceTransform(np.pad(inked, 1).astype(np.uint8), cv2.DIST_L2, 5)
    assert weight * strokes.MASTER_PX * 0.9 <= 2 * depth.max() <= weight * strokes.MASTER_PX * 1.9


def test_skeletons_differ_from_each_other():
    drawn = {c: cv2.resize(strokes.master(c, 0.95, 0.13, 0.45), (24, 40)) / 255 for c in strokes.SKELETONS}
    pairs = [(a, b) for a in drawn for b in drawn if a < b and {a, b} != {"0", "O"}]
    assert min(float(np.abs(drawn[a] - drawn[b]).mean()) for a, b in pairs) > 0.03


def test_a_script_without_a_font_is_told_with_its_package_and_still_drawn(monkeypatch, caplog):
    monkeypatch.setattr(glyphs, "_system_faces", dict)
    glyphs._warn_of_missing_script.cache_clear()
    glyphs._master_of.cache_clear()
    with caplog.at_level(logging.WARNING):
        image = render.render(STYLES["KR"], "12가 3456", (64, 300))
    assert image.shape == (64, 300, 3)
    assert "fonts-nanum" in caplog.text
    glyphs._master_of.cache_clear()


def test_a_font_is_asked_whether_it_has_a_character():
    file = glyphs.find_face("DejaVuSans-Bold")
    assert glyphs.has_picture(file, "A")
    assert not glyphs.has_picture(file, "가")
