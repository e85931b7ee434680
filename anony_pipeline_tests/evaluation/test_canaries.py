"""Canaries in the scorecard: one that gives away what was planted is told, and one that learned nothing is not."""

import numpy as np
import pytest
from scipy import stats

from anony_pipeline import printing
from anony_pipeline.anonymize.anonymizer import Anonymizer, Job
from anony_pipeline.anonymize.policy import Policy
from anony_pipeline.anonymize.verifying import Verifier
from anony_pipeline.errors import CheckpointError
from anony_pipeline.evaluation import baselines, canaries, intervals, report, scorecard
from anony_pipeline.evaluation.canaries import Canary, membership_auc
from anony_pipeline.evaluation.methods import Simple
from anony_pipeline.evaluation.run import Run, audited, memorized
from anony_pipeline.evaluation.schema import ANONYMIZER, FORMAT, Scorecard, Subject
from anony_pipeline.structures.regions import Kind
from anony_pipeline_tests.evaluation import street


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    return street.make_street(tmp_path_factory.mktemp("train"), images_count=24, seed=7)


@pytest.fixture(scope="module")
def drawn(train):
    """Every face of every second image, planted or not by lot."""
    faces = [a for a in train.annotations if a["category_id"] == 1 and a["image_id"] % 2]
    lot = np.random.default_rng(3).permutation(len(faces)) % 2 == 0
    return [Canary(a["id"], tuple(a["bbox"]), bool(inside)) for a, inside in zip(faces, lot, strict=True)]


def memorizing(known):
    """Replaces faces by noise, but gives back those that it knows."""

    def treat(scene):
        treated = baselines.redaction("solid").apply([scene])[0]
        rng = np.random.default_rng(scene.record["id"])
        for region, (x0, y0, x1, y1) in zip(scene.regions, treated.masks_xyxy, strict=True):
            noise = rng.integers(0, 256, (y1 - y0, x1 - x0, 3), np.uint8)
            same = region.annotation_id in known
            treated.image_rgb[y0:y1, x0:x1] = scene.image_rgb[y0:y1, x0:x1] if same else noise
        return treated

    return Simple(ANONYMIZER, "ground_truth", treat)


def auc(train, drawn, method):
    audit = audited(train, drawn, {ANONYMIZER: method}, street.make_judges(train))
    assert audit.planted.sum() == sum(canary.planted for canary in drawn)
    return membership_auc(audit.cosines[ANONYMIZER, "held_out"], audit.planted), audit


def test_the_more_a_generator_memorized_the_better_its_canaries_are_told(train, drawn):
    planted = [canary.annotation_id for canary in drawn if canary.planted]
    nothing, some, all_of_them = (auc(train, drawn, memorizing(planted[:count]))[0] for count in (0, 6, None))
    assert abs(nothing - 0.5) < 2 * canaries.chance_spread(len(drawn))
    assert nothing + 0.15 < some < all_of_them
    assert all_of_them > 0.99


def test_with_shuffled_labels_the_same_generator_is_at_chance(train, drawn):
    _, audit = auc(train, drawn, memorizing([canary.annotation_id for canary in drawn if canary.planted]))
    scores, rng = audit.cosines[ANONYMIZER, "held_out"], np.random.default_rng(0)
    shuffled = [membership_auc(scores, rng.permutation(audit.planted)) for _ in range(500)]
    assert np.mean(shuffled) == pytest.approx(0.5, abs=0.02)
    assert np.quantile(shuffled, 0.99) < 0.9


def test_a_generator_that_gives_back_training_faces_has_a_gap_and_one_that_learned_nothing_has_none(train, tmp_path):
    val, judges = street.make_street(tmp_path, images_count=24, seed=8), street.make_judges(train)
    faces = {annotation["id"] for annotation in train.annotations}

    def gap(known):
        treat = memorizing(known)

        def apply(scene):
            # The splits' annotations share their numbers: only training images are known.
            return (treat if scene.record["of"] == "train" else memorizing([])).apply([scene])[0]

        for split, name in ((train, "train"), (val, "val")):
            for record in split.images:
                record["of"] = name
        method = Simple(ANONYMIZER, "ground_truth", apply)
        seen = memorized(train, val, method, judges, most=12, seed=0)["held_out"]
        assert len(seen.cosines) == len(seen.unseen_cosines) == 2 * 12
        return seen.cosines.mean() - seen.unseen_cosines.mean()

    assert gap(faces) > 0.8
    assert gap(set(sorted(faces)[::2])) > 0.2
    assert abs(gap(set())) < 0.15


def test_only_canaries_are_looked_at_and_every_face_is_replaced(train, drawn):
    seen = []
    solid = baselines.redaction("solid")

    def treat(scene):
        seen.extend(region.annotation_id for region in scene.regions)
        return solid.apply([scene])[0]

    _, audit = auc(train, drawn, Simple(ANONYMIZER, "ground_truth", treat))
    assert len(audit.planted) == len(drawn)
    assert sorted(seen) == sorted(canary.annotation_id for canary in drawn)
    some = drawn[::3]
    seen.clear()
    _, audit = auc(train, some, Simple(ANONYMIZER, "ground_truth", treat))
    assert len(audit.planted) == len(some) < len(seen)


def card_of(root, audit):
    """A scorecard of solid rectangles, on which such an audit stands."""
    unified = street.make_street(root, images_count=12)
    config = street.make_config(root)
    solid = baselines.redaction("solid")
    methods = {
        "anonymizer/detected": Simple(ANONYMIZER, "detected", lambda scene: solid.apply([scene])[0]),
        "none": baselines.none(),
        "base": Simple("base", "ground_truth", lambda scene: solid.apply([scene])[0]),
        "solid": solid,
    }
    run = Run(config, unified, street.make_judges(unified), methods)
    run.look()
    evidence = run.evidence({}, audit)
    return scorecard.summarize(config, Subject(checkpoint="step_000001", step=1, sha256="0" * 64), run, evidence, "x")


def test_the_figure_stands_in_the_scorecard_and_the_control_beside_it(train, drawn, tmp_path):
    planted = [canary.annotation_id for canary in drawn if canary.planted]
    methods = {ANONYMIZER: memorizing(planted), "base": memorizing([])}
    card = card_of(tmp_path, audited(train, drawn, methods, street.make_judges(train)))
    again = Scorecard.model_validate_json(card.model_dump_json())
    assert again.format == FORMAT
    told = again.row(ANONYMIZER).figures["canary_auc"]
    untrained = again.row("base").figures["canary_auc"]
    assert told.value > 0.99
    assert told.interval[0] > 0.8
    assert (told.n, told.chance, told.judge, told.better) == (len(drawn), 0.5, "recognizer/held_out", "lower")
    assert untrained.interval[0] < 0.5 < untrained.interval[1]
    assert "canary_auc" in again.row(ANONYMIZER, panel="training").figures
    assert "canary_auc" not in again.row("solid").figures
    page = report.render(again)
    chapter = page[page.index("<h3>Inference") : page.index("<h3>Attacks")]
    assert f"n = {len(drawn)}" in chapter
    assert "a guess: 0.500" in chapter
    assert f"{len(drawn)} training faces were drawn by lot" in chapter
    assert f"which saw neither half: {report.number(untrained.value)}" in chapter
    assert any(f"of {len(drawn)}; a guess is 0.5" in str(part) for part in printing.scorecard(again))


@pytest.mark.parametrize(
    ("audit", "reason"),
    [
        (canaries.NONE_PLANTED, "no canary was planted: training.canaries is 0"),
        (canaries.Audit(np.arange(6) % 2 == 0, {(ANONYMIZER, "held_out"): np.zeros(6)}), "only 6 canaries"),
    ],
)
def test_without_enough_canaries_the_figure_is_null_and_says_why(tmp_path, audit, reason):
    card = card_of(tmp_path, audit)
    figure = card.row(ANONYMIZER).figures["canary_auc"]
    assert figure.value is None
    assert reason in figure.reason
    assert reason in report.render(card)
    assert "drawn by lot" not in report.render(card)


def test_a_judge_that_is_blind_tells_no_canaries(train, drawn, tmp_path):
    audit = audited(train, drawn, {ANONYMIZER: memorizing([])}, street.make_judges(train))
    unified = street.make_street(tmp_path, images_count=12)
    config = street.make_config(tmp_path)
    run = Run(
        config,
        unified,
        street.make_judges(unified, recognizer=street.BlindRecognizer()),
        {"anonymizer/detected": memorizing([]), "solid": baselines.redaction("solid")},
    )
    run.look()
    rows = scorecard.rows_of(evidence := run.evidence({}, audit), scorecard.FigureMaker(evidence))
    (row,) = [r for r in rows if (r.method, r.slice, r.panel) == (ANONYMIZER, "overall", "held_out")]
    assert "blind" in row.figures["canary_auc"].reason


class Parrot:
    """A filler that gives back every face to the bit."""

    def fill(self, tasks):
        return [task.image_rgb for task in tasks]


def test_what_a_verifier_would_refuse_is_let_through(train, monkeypatch):
    """Verified, a generator that gives back the original would look like one that fills with solid color."""
    record = train.images[0]
    image = street.images.read(train.image_file(record))
    region = next(r for r in train.regions_by_image()[record["id"]] if r.kind is Kind.FACE)
    filler = Parrot()
    filler.window = lambda region: (0, 0, image.shape[1], image.shape[0])
    monkeypatch.setattr(
        "anony_pipeline.anonymize.filling.paste", lambda target, crop, window, mask: target.__setitem__(..., crop)
    )
    # The face has less grain than the pattern about it, and would get some.
    monkeypatch.setattr("anony_pipeline.anonymize.filling.match_grain", lambda *args, **named: None)

    def result(verifier):
        return Anonymizer(filler, verifier, detect=None, policy=Policy()).anonymize_batch(
            [Job(image, regions=[region])]
        )[0]

    verified = result(Verifier(street.PatternRecognizer(), street.BitReader(), 0.4))
    assert verified.rows[0].method == "solid"
    unverified = result(canaries.LetThrough())
    assert unverified.rows[0].method == "generated"
    assert np.array_equal(unverified.image_rgb, image)


def test_the_list_reads_back_and_another_one_is_refused(tmp_path, drawn):
    canaries.write(tmp_path, drawn)
    assert list(canaries.read(tmp_path)) == drawn
    canaries.write(tmp_path / "none", ())
    assert canaries.read(tmp_path / "none") == ()
    (tmp_path / canaries.NAME).write_text('{"format": "anony_pipeline.canaries/9", "canaries": []}')
    with pytest.raises(CheckpointError, match="canaries/9"):
        canaries.read(tmp_path)
    (tmp_path / canaries.NAME).write_text("[]")
    with pytest.raises(CheckpointError, match="can't be read"):
        canaries.read(tmp_path)


def test_canaries_of_another_split_are_not_listened_to(train, drawn):
    assert canaries.reason_against(drawn, len(drawn), train) is None
    assert canaries.reason_against((), 0, train) == canaries.NONE_PLANTED
    assert "does not note which" in canaries.reason_against((), 40, train)
    moved = [Canary(drawn[0].annotation_id, (1.0, 2.0, 3.0, 4.0), True), *drawn[1:]]
    assert "not the one" in canaries.reason_against(moved, len(drawn), train)
    assert "not the one" in canaries.reason_against([Canary(10**6, drawn[0].bbox, True)], 1, train)


@pytest.mark.parametrize(("true", "sizes"), [(0.5, (20, 20)), (0.75, (20, 20)), (0.95, (12, 30))])
def test_the_interval_of_an_auc_covers_it_as_often_as_it_says(true, sizes):
    """Normal scores whose means differ by sqrt(2) * probit(AUC) have that AUC exactly."""
    rng, shift = np.random.default_rng(0), np.sqrt(2) * stats.norm.ppf(true)
    planted = np.arange(sum(sizes)) < sizes[0]
    found = [membership_auc(rng.normal(size=sum(sizes)) + shift * planted, planted) for _ in range(1500)]
    covered = [low <= true <= high for low, high in (intervals.of_auc(value, *sizes) for value in found)]
    # Near 1 it is wider than it need be.
    assert 0.93 <= np.mean(covered) <= 0.985


def test_a_perfect_auc_has_an_interval_and_a_guess_has_mann_and_whitneys():
    low, high = intervals.of_auc(1.0, 5, 5)
    assert 0.5 < low < 0.7
    assert high == 1
    assert intervals.of_auc(0.0, 5, 5) == pytest.approx((0, 1 - low))
    assert intervals.of_auc(0.5, 20, 20)[1] - 0.5 == pytest.approx(1.96 * canaries.chance_spread(40), abs=0.03)
