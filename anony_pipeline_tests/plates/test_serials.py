import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anony_pipeline.errors import ConfigError, PrivacyError
from anony_pipeline.plates import serials
from anony_pipeline.plates.styles import Grammar, load_styles

STYLES = load_styles()
SECRET = b"0123456789abcdef"

# Written down a second time, independently of the styles' files.
FORMS = {
    "BR": r"[A-Z]{3}-\d{4}",
    "CH": r"[A-Z]{2} [1-9]\d{3,5}",
    "DE": r"[A-Z]{1,3} [A-Z]{1,2} [1-9]\d{0,3}",
    "FR": r"[A-HJ-NP-TV-Z]{2}-\d{3}-[A-HJ-NP-TV-Z]{2}",
    "NL": r"\d\d-[B-Z]{3}-\d|\d-[B-Z]{3}-\d\d|[B-Z]{2}-\d{3}-[B-Z]|[B-Z]-\d{3}-[B-Z]{2}|[B-Z]{3}-\d\d-[B-Z]",
    "RO": r"([A-Z]{2} \d\d|B \d{2,3}) [A-HJ-NP-Z][A-PR-Z]{2}",
    "US_CA": r"[1-9][A-HJ-NPR-Z][A-Z][A-HJ-NPR-Z]\d{3}",
    "unspecified": r"[A-Z]{3} \d{3}|[A-Z]{2} \d{4}|\d\d [A-Z]{3} \d\d",
}


@pytest.mark.parametrize("key", STYLES)
def test_serials_have_the_form_of_their_country(key):
    rng = np.random.default_rng(0)
    for _ in range(300):
        serial = serials.draw(STYLES[key], rng)
        assert re.fullmatch(FORMS[key], serial), serial
        assert key in serials.parse(serial, STYLES)
        assert set(serials.normalize(serial)) <= set(STYLES[key].serial.alphabet)


def test_letters_and_combinations_that_do_not_exist_are_not_drawn():
    rng = np.random.default_rng(1)
    french = [serials.draw(STYLES["FR"], rng) for _ in range(3000)]
    assert not any("SS" in s or s.startswith("WW") or "-000-" in s for s in french)
    german = [serials.draw(STYLES["DE"], rng) for _ in range(3000)]
    assert max(len(serials.normalize(s)) for s in german) <= 8
    assert not any(re.search(r" (HJ|KZ|NS|SA|SS) ", s) for s in german)


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("AB-123-CD", ["FR"]),
        ("ab 123 cd", ["FR"]),
        ("SS123CD", []),
        ("B AB 1234", ["BR", "DE"]),
        ("ZH 123456", ["CH"]),
        ("XX 123456", []),
        ("CJ 12 ABC", ["RO"]),
        ("1ABC234", ["US_CA"]),
        ("1IBC234", []),
        ("", []),
        ("---", []),
    ],
)
def test_parse_tells_which_styles_accept_a_text(text, keys):
    assert serials.parse(text, STYLES) == keys


@pytest.mark.parametrize("key", STYLES)
def test_a_drawn_serial_stays_away_from_the_original(key):
    rng = np.random.default_rng(2)
    original = serials.draw(STYLES[key], rng)
    for _ in range(50):
        drawn = serials.draw(STYLES[key], rng, avoid=[original.lower()])
        assert serials.edit_distance(serials.normalize(drawn), serials.normalize(original)) > 2


def test_a_grammar_without_room_beside_the_original_is_an_error():
    grammar = Grammar(sets={"L": "AB"}, patterns=({"tokens": "L2"},))
    style = STYLES["FR"].model_copy(update={"serial": grammar})
    with pytest.raises(ConfigError, match=r"(?s)too few serials.*plate style FR"):
        serials.draw(style, np.random.default_rng(0), avoid=["AA"])


def test_keyed_serials_depend_on_secret_track_and_style_alone():
    style = STYLES["NL"]
    assert serials.keyed_serial(style, SECRET, "t1") == serials.keyed_serial(style, SECRET, "t1")
    others = {
        serials.keyed_serial(style, SECRET, "t2"),
        serials.keyed_serial(style, SECRET[::-1], "t1"),
        serials.keyed_serial(STYLES["FR"], SECRET, "t1"),
    }
    assert serials.keyed_serial(style, SECRET, "t1") not in others
    assert len(others) == 3


def test_a_short_secret_is_refused():
    with pytest.raises(PrivacyError, match="too short"):
        serials.keyed_serial(STYLES["FR"], b"abc", "t")


def slow_distance(a: str, b: str) -> int:
    if not a or not b:
        return len(a) + len(b)
    return min(slow_distance(a[1:], b) + 1, slow_distance(a, b[1:]) + 1, slow_distance(a[1:], b[1:]) + (a[0] != b[0]))


@given(st.text("AB1", max_size=5), st.text("AB1", max_size=5))
def test_edit_distance_equals_its_recursive_definition(a, b):
    assert serials.edit_distance(a, b) == slow_distance(a, b)
