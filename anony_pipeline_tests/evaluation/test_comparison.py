import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anony_pipeline.errors import AnonyPipelineError
from anony_pipeline.evaluation import comparison, plots, report, schema, scorecard
from anony_pipeline.evaluation.schema import DataFacts, JudgeEntry, Row, Scorecard, Subject, figure


def card(step=20, *, rank1=0.2, sha256="a", fingerprint="data", **judges):
    known = {"recognizer/held_out": sha256, "detector/training": str(step)} | judges
    entries = {
        key: JudgeEntry(kind=key.split("/")[0], name=key, library="l", weights="w", sha256=value * 64, panel="held_out")
        for key, value in known.items()
    }
    figures = {"reid_rank1": figure("reid_rank1", rank1, n=100, interval=(rank1 - 0.05, rank1 + 0.05))}
    facts = {"images": 9, "faces": 100, "plates": 0, "identities": 5, "serials": 0, "left_out_crowd": 0}
    rows = [Row(method="anonymizer", boxes="detected", panel="held_out", slice="overall", figures=figures)]
    return Scorecard(
        name="demo",
        subject=Subject(checkpoint=f"step_{step:06d}", step=step, sha256="c" * 64),
        data=DataFacts(fingerprint=fingerprint, procedural=True, **facts),
        judges=entries,
        rows=tuple(rows),
        gates=(),
        treated={},
        command="anony evaluate --checkpoint x",
    )


def test_scorecards_of_the_same_judges_stand_side_by_side():
    (row,) = comparison.compare([card(20, rank1=0.3), card(40, rank1=0.1)])
    assert (row.metric, row.clear) == ("reid_rank1", "better")
    assert [found.value for found in row.figures] == [0.3, 0.1]
    assert comparison.compare([card(20, rank1=0.1), card(40, rank1=0.3)])[0].clear == "worse"
    assert comparison.compare([card(20, rank1=0.2), card(40, rank1=0.25)])[0].clear is None


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (card(40, sha256="b"), "another judge recognizer/held_out: recognizer/held_out aaaaaaaa"),
        (card(40, fingerprint="more"), "other data"),
        (card(40, **{"reader/held_out": "d"}), "another judge reader/held_out: none"),
    ],
    ids=["judge", "data", "one judge more"],
)
def test_scorecards_of_other_judges_or_data_are_refused_with_the_reason(other, reason):
    with pytest.raises(AnonyPipelineError, match=reason):
        comparison.compare([card(), other])
    with pytest.raises(AnonyPipelineError, match=r"a\.json and b\.json"):
        comparison.compare([card(), other], ["a.json", "b.json"])


def test_a_file_that_is_no_scorecard_is_refused_with_its_first_mistake(tmp_path):
    (tmp_path / "boxes.json").write_text('{"format": "coco"}')
    with pytest.raises(AnonyPipelineError, match=r"format: Input should be [\s\S]*, not coco[\s\S]*scorecard/1 or"):
        schema.load(tmp_path / "boxes.json")


def test_the_history_holds_comparable_checkpoints_alone_by_step(tmp_path):
    newest = card(60)
    for number, old in enumerate([card(40), card(20), card(10, sha256="b")]):
        scorecard.atomic.write_json(tmp_path / "scorecards" / f"{number}.json", old.model_dump(mode="json"))
    (tmp_path / "scorecards" / "broken.json").write_text("{}")
    found = scorecard.history_of(newest, tmp_path)
    assert [old.subject.step for old in found] == [20, 40, 60]
    assert report.render(newest, history=found).count("<polyline") == 1
    assert "<polyline" not in report.render(newest)


def labels_of(places, names, taken=()):
    points = [plots.Point(0, 0, name, ours=name == "ours") for name in names]
    return plots.label_boxes(places, points, taken)


def apart(first, second):
    return (
        first.right <= second.left
        or second.right <= first.left
        or first.bottom <= second.top
        or second.bottom <= first.top
    )


@given(
    st.lists(
        st.tuples(st.floats(plots.LEFT, plots.WIDTH - plots.RIGHT), st.floats(plots.TOP, plots.HEIGHT - plots.BOTTOM)),
        min_size=1,
        max_size=8,
    )
)
def test_no_label_covers_another_one_or_a_point_of_another(places):
    boxes = labels_of(places, ["other_face"] * len(places))
    for (one, box), (other, beside) in itertools.combinations(enumerate(boxes), 2):
        assert apart(box, beside), (one, other)
    for number, box in enumerate(boxes):
        assert box.left >= plots.LEFT
        assert box.right <= plots.WIDTH
        for other, (x, y) in enumerate(places):
            dot = plots.Box(x - plots.DOT_PX, y - plots.DOT_PX, x + plots.DOT_PX, y + plots.DOT_PX)
            assert apart(box, dot), (number, other)


def test_a_label_stands_beside_its_point_where_there_is_room_and_ours_chooses_first():
    (box,) = labels_of([(200, 100)], ["blur"])
    assert (box.left, (box.top + box.bottom) / 2) == (200 + plots.LABEL_PX, 100)
    first, ours = labels_of([(200, 100), (200, 100)], ["blur", "ours"])
    assert (ours.top + ours.bottom) / 2 == 100
    assert apart(first, ours)


def test_a_label_does_not_stand_on_the_line_of_chance():
    line = plots.Box(plots.LEFT, 99, plots.WIDTH - plots.RIGHT, 101)
    (box,) = labels_of([(200, 100)], ["blur"], [line])
    assert apart(box, line)


def test_a_plot_escapes_its_labels():
    axis = plots.span("x", [0.0, 1.0])
    drawn = plots.scatter([plots.Point(0.5, 0.5, "<b>&")], axis, axis)
    assert "<b>" not in drawn
    assert "&lt;b&gt;&amp;" in drawn
