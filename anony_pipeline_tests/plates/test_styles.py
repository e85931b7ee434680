import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from anony_pipeline.errors import ConfigError
from anony_pipeline.plates import serials, styles
from anony_pipeline.plates.styles import Grammar, configured_styles, load_style, load_styles

WANTED = """FR DE NL CH AT IT ES PT BE GB IE PL CZ RO SE NO TR UA US_CA US_NY US_TX CA_ON MX BR BR_MERCOSUR AR AU_NSW
ZA_GP IN CN CN_GREEN JP KR"""


def write(folder: Path, **changes) -> Path:
    values = yaml.safe_load((styles.SHIPPED / "FR.yaml").read_text()) | {"key": "XX"} | changes
    path = folder / f"{values['key']}.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def test_shipped_styles_are_there_and_sorted():
    known = load_styles()
    assert set(WANTED.split()) <= set(known)
    assert [*known] == [*sorted(set(known) - {styles.NEUTRAL}), styles.NEUTRAL]
    assert all(key == style.key for key, style in known.items())


def test_every_style_says_where_its_facts_are_from():
    for style in load_styles().values():
        assert any("font" in fact for fact in style.sources) or style.key == styles.NEUTRAL
        assert all(source.strip() for source in style.sources.values())


def test_styles_load_without_torch_and_cv2():
    code = "import sys, anony_pipeline.plates.styles as s; s.load_styles(); print({'torch', 'cv2'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_user_styles_join_the_shipped_ones(tmp_path):
    write(tmp_path, name="mine")
    assert set(load_styles(tmp_path)) == {*load_styles(), "XX"}
    assert load_styles(tmp_path)["XX"].name == "mine"
    assert "XX" not in load_styles()


def test_a_user_style_replaces_the_shipped_one_of_its_key(tmp_path):
    write(tmp_path, key="FR", name="my France")
    assert load_styles(tmp_path)["FR"].name == "my France"


def test_a_folder_that_is_not_there_holds_no_styles(tmp_path):
    assert load_styles(tmp_path / "none") == load_styles()


def test_styles_in_the_projects_folder_are_configured(tmp_path, monkeypatch):
    folder = tmp_path / "configs" / "plate_styles"
    folder.mkdir(parents=True)
    (tmp_path / "dagster.yaml").touch()
    write(folder)
    monkeypatch.chdir(tmp_path)
    assert configured_styles().keys() - load_styles().keys() == {"XX"}


@pytest.mark.parametrize("style", load_styles().values(), ids=lambda style: style.key)
def test_every_shape_bears_the_same_serials(style):
    rng = np.random.default_rng(0)
    for _ in range(20):
        serial = serials.draw(style, rng)
        for shape in style.shapes.values():
            pieces = shape.serial.split(serial)
            assert "".join(piece.text for piece in pieces) == serials.normalize(serial)
            assert shape.key == style.key


def test_the_shape_is_chosen_by_the_aspect():
    style = load_styles()["FR"]
    assert style.shaped(520 / 110) is style
    assert style.shaped(520 * 0.5 / 110) is style  # seen under 60 degrees
    assert style.shaped(1.4).size_mm == (275, 200)
    assert style.shaped(1.4).serial.rows == 2
    assert load_styles()["US_CA"].shaped(9) is load_styles()["US_CA"]


def test_a_shape_that_does_not_fit_is_told(tmp_path):
    shape = {"size_mm": [200, 130], "text_area_mm": [10, 10, 300, 120], "glyph_height_mm": 45}
    with pytest.raises(ConfigError, match=r"variants\.small: .*text_area_mm"):
        load_style(write(tmp_path, variants={"small": shape}))


def test_every_bad_file_is_named_with_its_key(tmp_path):
    write(tmp_path, key="XA", colours={})
    write(tmp_path, key="XB", size_mm=[0, 110])
    with pytest.raises(
        ConfigError, match=r"(?s)XA\.yaml.*colours: there is no such key; did you mean colors\?.*XB\.yaml.*size_mm\.0"
    ):
        load_styles(tmp_path)


def grammar(*tokens, **changes):
    patterns = [token if isinstance(token, dict) else {"tokens": token} for token in tokens]
    return {"serial": {"sets": {"L": "AB"}, "patterns": patterns} | changes}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"colors": {"background": "white", "text": "#000000"}}, r"colors\.background"),
        ({"font": {"face": "X", "package": "x", "bold": 1}}, r"font\.bold: there is no such key; known here: face"),
        ({"border": {"color": "#000000", "width": 2}}, r"border\.width: there is no such key; did you mean width_mm"),
        ({"bands": [{"side": "below", "width_mm": 4, "color": "#000000"}]}, r"bands\.0\.side"),
        ({"text_area_mm": [10, 12, 468, 98]}, r"text_area_mm must lie inside the border and beside the bands: 45"),
        ({"text_area_mm": [52, 12, 668, 98]}, r"text_area_mm must be x_min y_min x_max y_max inside 520 x 110"),
        (grammar("L2 D2"), r"serial: .*unknown token 'D2'; known here: L"),
        (grammar("L2", forbidden=["^[AB]"]), r"serial: .*can't be satisfied"),
        (grammar("L2", forbidden=["("]), r"serial: .*no valid regular expression"),
        (grammar("L2", sets={"L": "AA"}), r"serial: .*none of them twice"),
        (grammar("L2", sets={"L": "AB", "L2": "CD"}), r"serial: .*named by letters alone"),
        (grammar("L2", lists={"L": ["AB"]}), r"serial: these names stand in `sets` and in `lists`: L"),
        (grammar("- _"), r"serial: .*has no characters"),
        (grammar({"tokens": "L", "weight": 2}, "L2"), r"serial: either every pattern has a weight"),
        ({"sources": {}}, r"sources"),
    ],
)
def test_a_mistake_is_told_with_its_key(tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        load_style(write(tmp_path, **changes))


def test_a_missing_key_is_told(tmp_path):
    path = write(tmp_path)
    values = yaml.safe_load(path.read_text())
    del values["glyph_height_mm"]
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(ConfigError, match="glyph_height_mm: this key is required"):
        load_style(path)


@pytest.mark.parametrize(("text", "message"), [("key: [", "can't be read"), ("- a", "must be a mapping")])
def test_a_file_that_is_no_style_is_refused(tmp_path, text, message):
    (tmp_path / "XX.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_style(tmp_path / "XX.yaml")


def test_a_file_is_named_after_its_key(tmp_path):
    path = write(tmp_path).rename(tmp_path / "YY.yaml")
    with pytest.raises(ConfigError, match="named after its key"):
        load_style(path)


@given(
    st.lists(st.sampled_from(["L", "L2", "D3", "zone", "-", "_", ".", "*", "/"]), min_size=1, max_size=6), st.randoms()
)
def test_a_grammar_splits_what_it_proposes(tokens, random):
    if not {"L", "L2", "D3", "zone"} & set(tokens):
        return
    grammar = Grammar(
        sets={"L": "ABC", "D": "0123456789"}, lists={"zone": ("X", "XY")}, patterns=({"tokens": " ".join(tokens)},)
    )
    serial = grammar.propose(random.randrange)
    pieces = grammar.split(serial)
    assert "".join(p.mark.text if p.mark else p.text for p in pieces) == serial
    assert set("".join(p.text for p in pieces)) <= set(grammar.alphabet)
    assert grammar.split(serial.replace("-", "").replace(" ", "")) is not None


def test_draws_are_uniform_over_the_grammar():
    grammar = Grammar(sets={"L": "AB"}, lists={"z": ("X", "Y", "Z")}, patterns=({"tokens": "L2"}, {"tokens": "z"}))
    # Number every choice: each of the 4 + 3 serials must come from exactly one path of equal probability.
    seen: dict[str, int] = {}
    for first in range(7):
        for second in range(12):
            serial = grammar.propose(lambda n, s=second, f=first: f if n == 7 else s % n)
            seen[serial] = seen.get(serial, 0) + 1
    assert set(seen.values()) == {12}
    assert len(seen) == 7
