import json
import re
import shutil

import numpy as np
import pytest

from anony_pipeline import printing
from anony_pipeline.anonymize.anonymizer import Anonymizer
from anony_pipeline.anonymize.filling import Filler
from anony_pipeline.anonymize.loading import Checkpoint
from anony_pipeline.anonymize.policy import Policy
from anony_pipeline.anonymize.verifying import Verifier
from anony_pipeline.config.schema import Gates
from anony_pipeline.datasets import coco
from anony_pipeline.errors import AnonyPipelineError
from anony_pipeline.evaluation import baselines, report, scorecard
from anony_pipeline.evaluation.canaries import NONE_PLANTED
from anony_pipeline.evaluation.intervals import bootstrap_by_person
from anony_pipeline.evaluation.run import memorized
from anony_pipeline.evaluation.schema import Figure, Row, figure, null
from anony_pipeline.models.recognizer import align
from anony_pipeline.ops import images
from anony_pipeline.plates.styles import load_styles
from anony_pipeline.structures.regions import Kind
from anony_pipeline_tests.end_to_end.leaks import Secrets, walk
from anony_pipeline_tests.evaluation import street


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """`evaluate` itself on the street, with fake judges, a fake generator and the real baselines."""
    root = tmp_path_factory.mktemp("street")
    unified = street.make_street(root, images_count=24)
    (root / "unified_train.json").write_text((root / "unified_val.json").read_text())
    config = street.make_config(root)
    judges = street.make_judges(unified)

    def methods(config, checkpoint, judges, device):
        verifier = Verifier(judges.recognizers["training"], judges.readers["training"], 0.9)
        filler = Filler(street.NoiseGenerator(), config, load_styles(), b"s" * 32)
        detect = lambda images, threshold: street.KnowingDetector(unified).find(images)  # noqa: E731
        anonymizer = Anonymizer(filler, verifier, detect=detect, policy=Policy())
        given = baselines.Generated(anonymizer, "ground_truth")
        donors = baselines.Donors.read(config, unified)
        known = {
            "anonymizer/detected": baselines.Generated(anonymizer, "detected"),
            "anonymizer/ground_truth": given,
            "none": baselines.none(),
            "other_face": baselines.other_face(donors),
            "fit": baselines.fit(donors, load_styles()),
        } | {name: baselines.redaction(name) for name in baselines.REDACTIONS}
        return known, lambda: (memorized(unified, unified, given, judges, most=8, seed=0), NONE_PLANTED)

    checkpoint = Checkpoint(root / "step_000040", config, {"step": 40}, "a" * 64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scorecard.loading, "open_checkpoint", lambda folder, here: checkpoint)
        patch.setattr(scorecard, "load_judges", lambda *args: judges)
        patch.setattr(scorecard, "_methods", methods)
        yield (
            lambda output, styles=None, config=config: scorecard.evaluate(
                config, checkpoint.folder, styles, root / output
            ),
            root,
        )


@pytest.fixture(scope="module")
def whole(judged):
    """The scorecard of a run over all styles, and where it lies."""
    evaluate, root = judged
    return evaluate("whole"), root / "whole"


@pytest.fixture(scope="module")
def alone(judged):
    """The scorecard of a run over one style, with none before it."""
    evaluate, root = judged
    return evaluate("alone", ["FR"]), root / "alone"


def test_evaluate_writes_a_scorecard_that_reads_back_and_a_page_that_stands_alone(whole):
    card, folder = whole
    assert scorecard.load(folder / "scorecard.json") == card
    page = (folder / "report" / "index.html").read_text()
    assert not re.search(r"(src|href)=.?https?:|<script|<link", page)
    assert page.count("data:image/") > 10
    assert images.read(folder / scorecard.EXAMPLES).shape[1] == 6 * 194
    assert "a" * 64 in page


def test_a_page_says_of_a_slice_how_many_regions_it_has_and_why_a_figure_is_null(whole):
    page = (whole[1] / "report" / "index.html").read_text()
    slices = dict(re.findall(r"<details><summary>(.*?)</summary>(.*?)</details>", page, re.DOTALL))
    assert "<table" in slices["plate style FR: 36 regions"]
    assert "only 0 faces; a figure needs 10" in slices["height 16-32 px: 24 regions"]
    empty = slices["height &gt;=64 px: 0 regions, too few for a figure"]
    assert "<table" not in empty
    assert "rank-1, over other_face, similarity: only 0 faces; a figure needs 10" in empty


def test_a_page_says_of_a_gate_what_is_allowed_what_it_means_and_how_many_told(whole):
    page = (whole[1] / "report" / "index.html").read_text()
    gates = re.findall(r"<li class=\"(?:holds)?\"><b>(.*?)</li>", page, re.DOTALL)
    leak = next(gate for gate in gates if "plate leak" in gate)
    assert "allowed is at most 0.010" in leak
    assert "interval ends at" in leak
    assert "(n = 24)" in leak
    assert "original serial still read" in leak


def test_a_page_says_why_figures_of_a_further_panel_are_null(whole):
    card, folder = whole
    page = (folder / "report" / "index.html").read_text()
    (section,) = re.findall(r"The same by judges that were in a loss</h2>(.*?)</section>", page, re.DOTALL)
    rows = [row for row in card.rows if (row.slice, row.panel) == ("overall", "training")]
    reasons = {row.figures[name].reason for row in rows for name in report.HEADLINE if name in row.figures} - {None}
    assert reasons
    assert all(reason in section.rsplit("</table>", 1)[1] for reason in reasons)


def test_where_the_held_out_detector_is_blind_the_second_says_what_stays_useful(whole):
    card, _ = whole
    blinded = card.model_copy(
        update={"rows": tuple(row.model_copy(update={"figures": _without(row, "map_retention")}) for row in card.rows)}
    )
    assert "What leaks over what stays useful" not in report.render(blinded)
    rows = [row for row in report.overall_rows(card) if row.method != "real_halves"]
    second = tuple(row.model_copy(update={"panel": "second"}) for row in rows)
    page = report.render(blinded.model_copy(update={"rows": blinded.rows + second}))
    assert "mAP kept ↑, by the second detector" in page
    assert "by the second detector" not in report.render(card)


def _without(row, name):
    return {key: null(key, "blind") if key == name else value for key, value in row.figures.items()}


def test_what_is_null_for_every_method_is_a_reason_and_no_row(whole):
    card, _ = whole
    page = report.render(card)
    table = page[page.index('id="details"') : page.index("What is null or not in this table")]
    reasons = page[page.index("What is null or not in this table") :]
    assert "attributes kept" not in table
    assert "attributes kept: no judge of pose" in reasons
    assert ">FID ↓<" in table


def test_a_further_panel_shows_only_columns_that_it_was_asked_about(whole):
    card, _ = whole
    page = report.render(card)
    further = page[page.index("The same by judges that") : page.index('id="judges"')]
    assert 'data-name="coverage ↑"' not in further
    assert 'data-name="rank-1 ↓"' in further


def test_a_picture_is_shown_only_of_methods_that_treat_its_kind(whole):
    page = (whole[1] / "report" / "index.html").read_text()
    assert 'alt="face' in page
    assert re.search(r'alt="face \d+: other_face"', page)
    assert re.search(r'alt="license_plate \d+: blur"', page)
    assert not re.search(r'alt="license_plate \d+: other_face"', page)


def test_the_headline_is_the_anonymizer_end_to_end_by_held_out_judges(whole):
    card, _ = whole
    ours = card.row()
    assert (ours.boxes, ours.panel, ours.slice) == ("detected", "held_out", "overall")
    assert ours.figures["reid_rank1"].value < 0.5
    assert ours.figures["plate_leak_rate"].value == 0
    assert ours.figures["coverage"].value == 1
    assert ours.figures["memorization_gap"].value == pytest.approx(0, abs=0.2)
    assert "evaluation.attacks.kinds" in ours.figures["attack_parrot"].reason
    assert 0 < ours.figures["attack_linkability"].chance < 0.2


def test_baselines_stand_beside_it(whole):
    card, _ = whole
    assert card.row("none").figures["reid_rank1"].value == 1
    assert "plate_leak_rate" not in card.row("other_face").figures
    assert card.row("real_halves").figures["kid"].value < card.row("solid").figures["kid"].value
    assert card.row("inpaint").figures["kid_of_inpaint"].value == pytest.approx(1)
    assert card.row("fit").figures["plate_leak_rate"].value == 0


def test_what_was_judged_and_done_is_counted(whole):
    card, _ = whole
    assert card.data.procedural
    assert (card.data.images, card.data.faces, card.data.plates, card.data.serials) == (24, 48, 24, 24)
    assert sum(card.treated.values()) == 72
    assert not card.passed


def test_a_run_over_one_style_renews_its_rows_alone(judged, whole):
    evaluate, root = judged
    old, folder = whole
    shutil.copytree(folder, root / "renewed")
    part = evaluate("renewed", ["FR"])
    assert not part.overall_of_this_run
    assert part.styles_of_this_run == ("FR",)
    assert {row.slice for row in part.rows} == {row.slice for row in old.rows}
    assert part.row().figures == old.row().figures
    assert part.gates == old.gates
    assert "not of this run" in (root / "renewed" / "report" / "index.html").read_text()


def test_a_run_over_one_style_without_an_earlier_one_has_no_overall_figures(alone):
    card, _ = alone
    assert {row.slice for row in card.rows} == {"overall", "style:FR"}
    assert all(f.value is None and "not of this run" in f.reason for f in card.row().figures.values())
    assert not card.passed


def test_the_scorecard_holds_aggregates_alone(whole):
    text = (whole[1] / "scorecard.json").read_text()
    assert not any(street.serial_of(number) in text for number in range(24))
    lists = [v for row in json.loads(text)["rows"] for f in row["figures"].values() for v in f.values()]
    assert max(len(value) for value in lists if isinstance(value, list)) == 2


def test_real_images_give_no_picture(judged):
    evaluate, root = judged
    config = street.make_config(root)
    source = config.data.sources[0].model_copy(update={"ground_truth": None})
    real = config.model_copy(update={"data": config.data.model_copy(update={"sources": (source,)})})
    card = evaluate("real", ["FR"], real)
    assert not card.data.procedural
    assert "data:image/" not in (root / "real" / "report" / "index.html").read_text()
    unified = coco.load(root / "unified_val.json")
    assert not (root / "real" / scorecard.EXAMPLES).exists()
    assert walk(root / "real", secrets_of(unified)) == []


def secrets_of(unified):
    """What must not be found of a street: its regions, what the judges make of its faces, and its serials."""
    regions, faces = [], []
    for image in unified.images:
        picture = images.read(unified.image_file(image))
        for region in unified.regions_by_image()[image["id"]]:
            x0, y0, x1, y1 = (int(value) for value in region.box_xyxy)
            regions.append(picture[y0:y1, x0:x1])
            if region.kind is Kind.FACE:
                faces.append(align(picture, region, street.PatternRecognizer.input_size))
    embeddings = [street.PatternRecognizer().embed(faces)]
    return Secrets(regions, embeddings, {street.serial_of(number) for number in range(len(unified.images))})


def test_a_sheet_shows_regions_before_and_after_at_their_own_aspect():
    face, plate = np.full((96, 96, 3), 10, np.uint8), np.full((96, 288, 3), 20, np.uint8)
    page = report.before_and_after([("face", face, {"anonymizer/detected": face + 100}), ("plate", plate, {})])
    assert page[30, 96, 0] == 10
    assert page[30, 2, 0] == 255, "a face is not stretched"
    assert page[30, 96 + 194, 0] == 110
    assert page[30, 2 * 194 + 2, 0] == page[30, 3 * 194 + 2, 0] == 20


def row_with(**values):
    figures = {"map_retention": figure("map_retention", 0.97), "coverage": figure("coverage", 0.99)}
    figures |= {
        "reid_excess": figure("reid_excess", 0.0, n=900, interval=(-0.02, 0.02)),
        "plate_leak_rate": figure("plate_leak_rate", 0.0, n=500, interval=(0.0, 0.007)),
        "kid_of_inpaint": figure("kid_of_inpaint", 0.1),
        "memorization_gap": figure("memorization_gap", 0.01, n=90, interval=(-0.03, 0.05)),
    }
    return Row(method="anonymizer", boxes="detected", panel="held_out", slice="overall", figures=figures | values)


def test_gates_hold_for_good_figures():
    assert all(gate.passed for gate in scorecard.gates_of(row_with(), Gates()))


@pytest.mark.parametrize(
    "changed",
    [
        {"reid_excess": figure("reid_excess", 0.01, n=900, interval=(-0.01, 0.04))},
        {"reid_excess": figure("reid_excess", 0.0, n=300, interval=(-0.02, 0.02))},
        {"plate_leak_rate": figure("plate_leak_rate", 0.0, n=60, interval=(0.0, 0.06))},
        {"map_retention": figure("map_retention", 0.9)},
        {"coverage": null("coverage", "the judge is blind")},
        {"kid_of_inpaint": figure("kid_of_inpaint", 0.3)},
        {"memorization_gap": figure("memorization_gap", 0.09, n=90, interval=(0.02, 0.16))},
    ],
    ids=["excess", "few probes", "wide interval", "lost boxes", "null", "ugly", "memorized"],
)
def test_a_gate_fails_by_its_bound_its_interval_or_a_null(changed):
    failed = [gate for gate in scorecard.gates_of(row_with(**changed), Gates()) if not gate.passed]
    assert [gate.name for gate in failed] == list(changed)
    assert failed[0].reason


def test_a_gate_that_no_leak_fails_does_not_open_by_a_leak():
    for people, expected in ((100, False), (200, True)):
        persons = np.repeat(np.arange(people), 5)
        passed = []
        for leaks in range(40):
            values = (np.arange(5 * people) % 5 == 0) * (persons < leaks).astype(float)
            interval = bootstrap_by_person(values, persons, 300, np.random.default_rng(0))
            excess = figure("reid_excess", float(values.mean()), n=len(values), interval=interval)
            passed.append(scorecard.gates_of(row_with(reid_excess=excess), Gates())[0].passed)
        assert passed == sorted(passed, reverse=True)
        assert (passed[0], passed[-1]) == (expected, False)


def test_a_folder_has_no_gate_on_training_that_nobody_knows():
    names = [[gate.name for gate in scorecard.gates_of(row_with(), Gates(), kind)] for kind in ("checkpoint", "folder")]
    assert names[0] == [*names[1], "memorization_gap"]


def test_a_gate_that_an_earlier_run_did_not_know_fails_until_all_is_judged_anew(whole, alone):
    (card, _), (renewed, _) = whole, alone
    earlier = card.model_copy(update={"gates": card.gates[:-1]})
    gates = scorecard.merged(earlier, renewed).gates
    assert gates[:-1] == card.gates[:-1]
    assert (gates[-1].name, gates[-1].passed) == ("memorization_gap", False)
    assert "only some styles" in gates[-1].reason


def test_a_figure_is_a_value_or_a_reason():
    with pytest.raises(ValueError, match="or the reason"):
        Figure(better="lower")
    with pytest.raises(ValueError, match="finite"):
        Figure(better="lower", value=float("nan"))


def test_a_file_that_is_no_scorecard_is_refused(tmp_path):
    (tmp_path / "scorecard.json").write_text('{"format": "other"}')
    with pytest.raises(AnonyPipelineError, match="can't be read"):
        scorecard.load(tmp_path / "scorecard.json")
    with pytest.raises(AnonyPipelineError, match="there is no scorecard yet"):
        scorecard.load(tmp_path / "none.json")


def test_the_terminal_table_shows_null_as_null(alone):
    table, *notes = printing.scorecard(alone[0])
    assert table.row_count == 1
    cells = [next(iter(column.cells)) for column in table.columns]
    assert cells[:2] == ["anonymizer", "detected"]
    assert all("[1]" in cell or not cell for cell in cells[2:])
    assert notes[0] == "  [1] not of this run: only some styles were judged"


def test_the_terminal_names_a_folder_and_not_an_anonymizer_that_nobody_saw(alone):
    card = alone[0].model_copy(update={"subject": alone[0].subject.model_copy(update={"kind": "folder"})})
    table, *_ = printing.scorecard(card)
    assert [next(iter(column.cells)) for column in table.columns][:2] == ["the folder's images", ""]
