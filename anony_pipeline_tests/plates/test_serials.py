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
    "AR": r"A[A-Z] \d{3} [A-Z]{2}",
    "AT": r"[BEGIKLPSW] [1-9](\d{4}[A-Z]|\d{3}[A-Z]{2})|[A-Z]{2} [1-9](\d\d[A-Z]{2}|\d[A-Z]{3})",
    "AU_NSW": r"[A-HJ-Z]{3}-\d\d[A-HJ-Z]|[A-HJ-Z]{2}-\d\d-[A-HJ-Z]{2}",
    "AU_VIC": r"[12][A-Z]{2}-\d[A-Z]{2}|[A-Z]{3}-\d{3}",
    "BE": r"[12]-[A-Z]{3}-\d{3}",
    "BR": r"[A-Z]{3}-\d{4}",
    "BR_MERCOSUR": r"[A-Z]{3} \d[A-Z]\d\d",
    "CA_ON": r"[ABC][A-Z]{3} \d{3}",
    "CA_QC": r"[A-Z]\d\d [A-Z]{3}|\d{3} [A-Z]{3}",
    "CN": r"[\u4e00-\u9fff][A-HJK] (?=.*\d)[A-HJ-NP-Z\d]{5}",
    "CN_GREEN": r"[\u4e00-\u9fff][A-HJK] [A-HJK][A-HJ-NP-Z\d]\d{4}",
    "CZ": r"[1-9][A-Z][A-Z\d] \d{4}",
    "DK": r"[A-Z]{2} [1-9]\d{4}",
    "ES": r"\d{4} [B-DF-HJ-NPR-TV-Z]{3}",
    "FI": r"[A-Z]{3}-[1-9]\d{1,2}",
    "GB": r"[A-HK-PR-Y][A-HJ-PR-Y](0[2-9]|1\d|2[0-5]|5[1-9]|6\d|7[0-5]) [A-HJ-PR-Z]{3}",
    "HU": r"A[A-Z] [A-Z]{2}-\d{3}|[A-Z]{3}-\d{3}",
    "IE": r"(1[3-9]|2[0-5])[12]-[A-Z]{1,2}-[1-9]\d{2,4}",
    "IN": r"[A-Z]{2}(0[1-9]|1\d|20) [A-HJ-NP-Z]{1,2} \d{4}",
    "IT": r"[A-HJ-NPR-TV-Z]{2} \d{3}[A-HJ-NPR-TV-Z]{2}",
    "JP": r"[\u4e00-\u9fff]{2,3} [35]\d\d [\u3041-\u3096] [1-9]\d-\d\d",
    "KR": r"[1-6]\d{1,2}[\uac00-\ud7a3] [1-9]\d{3}",
    "MX": r"[A-Z]{3}-\d{3}-[A-Z]|[A-Z]{3}-\d\d-\d\d",
    "NO": r"[A-Z]{2} [1-9]\d{4}",
    "PL": r"[A-Z]{2} (\d{5}|\d{4}[A-Z]|\d{3}[A-Z]{2})|[A-Z]{3} ([A-Z]\d{3}|\d\d[A-Z]{2}|\d{3}[A-Z])",
    "PT": r"\d\d-[A-Z]{2}-\d\d|[A-Z]{2}-\d\d-[A-Z]{2}",
    "SE": r"[A-Z]{3} (\d{3}|\d\d[A-Z])",
    "SK": r"[A-Z]{2}[- ]\d{3}[A-PR-VX-Z]{2}",
    "SG": r"S[A-HJ-NP-Z]{2} [1-9]\d{1,3}[A-EGHJ-MPR-UX-Z]",
    "TR": r"(0[1-9]|[1-7]\d|8[01]) [A-Z]{1,3} \d{2,4}",
    "UA": r"[ABCEHIKMOPTX]{2} \d{4} [ABCEHIKMOPTX]{2}",
    "US_FL": r"[A-Z]{3} [A-Z]\d\d|[A-Z]{4} \d\d",
    "US_IL": r"[A-Z]{2} \d{5}",
    "US_MO": r"[A-Z]{2}\d [A-Z]\d[A-Z]",
    "US_NY": r"[A-Z]{3}-\d{4}",
    "US_TX": r"[B-DF-HJ-NP-TV-Z]{3} \d{4}",
    "ZA_GP": r"[B-DF-HJ-NP-TV-Z]{2}\d\d [B-DF-HJ-NP-TV-Z]{2} GP|[B-DF-HJ-NP-TV-Z]{3}\d{3} GP",
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


def test_unissued_ranges_look_like_the_others_and_are_drawn_on_demand():
    rng = np.random.default_rng(4)
    drawn = {serials.draw(STYLES["GB"], rng, unissued=True)[2:4] for _ in range(100)}
    assert drawn == {"00", "01", "50"}
    assert not drawn & {serials.draw(STYLES["GB"], rng)[2:4] for _ in range(500)}
    assert "GB" in serials.parse("AB01 CDE", STYLES)
    assert serials.keyed_serial(STYLES["GB"], SECRET, "t")[2:4] in drawn
    assert "-" in serials.draw(STYLES["FR"], rng, unissued=True)


@pytest.mark.parametrize("text", ["SGF2306R", "SJK6655U", "SGM6322E", "SJF5759L"])
def test_a_check_letter_is_computed_as_on_real_plates(text):
    assert serials.parse(text, STYLES) == ["SG"]
    assert serials.parse(text[:-1] + ("A" if text[-1] != "A" else "B"), STYLES) == []


def test_blocked_texts_are_not_drawn():
    rng = np.random.default_rng(5)
    style = STYLES["FR"]
    assert not any(set("ab1") & set(serials.draw(style, rng, blocked=["a", "B", "1", ""]).lower()) for _ in range(200))
    with pytest.raises(ConfigError, match=r"(?s)too few serials.*10 blocked"):
        serials.draw(style, rng, blocked=list("0123456789"))


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("AB-123-CD", ["AR", "FR", "IT"]),
        ("ab 123 cd", ["AR", "FR", "IT"]),
        ("SS123CD", ["IT"]),
        ("B AB 1234", ["BR", "DE", "MX", "US_NY"]),
        ("ZH 123456", ["CH"]),
        ("XX 123456", []),
        ("CJ 12 ABC", ["GB", "RO"]),
        ("1ABC234", ["BE", "US_CA"]),
        ("1IBC234", []),
        ("", []),
        ("---", []),
        ("京A12345", ["CN"]),
        ("12가 3456", ["KR"]),
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


@given(st.text("AB1", max_size=4), st.text("AB1", max_size=6))
def test_the_distance_within_is_that_to_the_nearest_stretch(part, text):
    stretches = {text[begin:end] for begin in range(len(text) + 1) for end in range(begin, len(text) + 1)}
    assert serials.edit_distance_within(part, text) == min(serials.edit_distance(part, each) for each in stretches)
