import itertools

import pytest

from anony_pipeline.errors import AnonyPipelineError
from anony_pipeline.evaluation import comparison, plots, report, scorecard
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


def test_the_history_holds_comparable_checkpoints_alone_by_step(tmp_path):
    newest = card(60)
    for number, old in enumerate([card(40), card(20), card(10, sha256="b")]):
        scorecard.atomic.write_json(tmp_path / "scorecards" / f"{number}.json", old.model_dump(mode="json"))
    (tmp_path / "scorecards" / "broken.json").write_text("{}")
    found = scorecard.history_of(newest, tmp_path)
    assert [old.subject.step for old in found] == [20, 40, 60]
    assert report.render(newest, history=found).count("<polyline") == 1
    assert "<polyline" not in report.render(newest)


def test_labels_of_a_plot_never_overlap_and_stay_inside():
    points = [(100.0, 200.0 + number) for number in range(8)] + [(300.0, 200.0)]
    heights = plots._spread(points, ["pixelate"] * 9)
    apart = sorted(heights[:8])
    assert all(b - a >= plots.LINE_PX for a, b in itertools.pairwise(apart))
    assert heights[8] == 200
    assert min(heights) >= plots.TOP
    assert max(heights) <= plots.HEIGHT - plots.BOTTOM


def test_a_plot_escapes_its_labels():
    axis = plots.span("x", [0.0, 1.0])
    drawn = plots.scatter([plots.Point(0.5, 0.5, "<b>&")], axis, axis)
    assert "<b>" not in drawn
    assert "&lt;b&gt;&amp;" in drawn
