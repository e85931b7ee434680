"""Controls: judges must see what is there to be seen, and a figure of one that doesn't must be null."""

import copy

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from anony_pipeline.evaluation import attacks, baselines, scorecard
from anony_pipeline.evaluation.figures import FigureMaker
from anony_pipeline.evaluation.methods import Simple, Treated
from anony_pipeline.evaluation.run import Run
from anony_pipeline.models.recognizer import RecognizerTwin
from anony_pipeline_tests.evaluation import street


def judge(tmp_path, methods=None, *, judges=None, unified=None, config=None, styles=None):
    unified = unified or street.make_street(tmp_path)
    config = config or street.make_config(tmp_path)
    known = {"none": baselines.none(), "solid": baselines.redaction("solid")} | (methods or {})
    run = Run(config, unified, judges or street.make_judges(unified), known, styles)
    run.look()
    evidence = run.evidence({})
    maker = FigureMaker(evidence)
    rows = scorecard.rows_of(evidence, maker, styles)
    return run, maker, {(r.method, r.slice, r.panel): r.figures for r in rows}


def test_the_originals_are_re_identified_and_read_and_solid_ones_are_not(tmp_path):
    _, _, rows = judge(tmp_path)
    none, solid = rows["none", "overall", "held_out"], rows["solid", "overall", "held_out"]
    assert none["reid_rank1"].value == 1
    assert none["tar_at_far_1e2"].value > 0.95
    assert none["plate_leak_rate"].value == 1
    assert none["easyocr_plate_acc"].value == pytest.approx(1)
    assert none["map_retention"].value == pytest.approx(1)
    assert none["arcface_mean_sim"].value == pytest.approx(1, abs=5e-4)
    assert solid["reid_rank1"].value < 0.3
    assert solid["plate_leak_rate"].value == 0
    assert 0 < solid["plate_leak_rate"].interval[1] < 0.08
    assert solid["val_map"].value == 0
    assert solid["coverage"].value == 1
    assert none["coverage"].value == 0
    assert solid["kid"].value > none["kid"].value


def leaky(every):
    """Solid rectangles, but one plate in so many is left as it was."""
    solid = baselines.redaction("solid")

    def treat(scene):
        treated = solid.apply([scene])[0]
        if scene.record["id"] % every == 0:
            x0, y0, x1, y1 = treated.masks_xyxy[2]
            treated.image_rgb[y0:y1, x0:x1] = scene.image_rgb[y0:y1, x0:x1]
        return treated

    return Simple("leaky", "ground_truth", treat)


def test_a_planted_leak_moves_the_leak_rate_by_two_points_and_fails_the_gate(tmp_path):
    unified = street.make_street(tmp_path, images_count=100)
    _, _, rows = judge(tmp_path, {"leaky": leaky(50)}, unified=unified)
    leak = rows["leaky", "overall", "held_out"]["plate_leak_rate"]
    assert leak.value - rows["solid", "overall", "held_out"]["plate_leak_rate"].value == pytest.approx(0.02)
    row = scorecard.Row(
        method="leaky", boxes="ground_truth", panel="held_out", slice="overall", figures={"plate_leak_rate": leak}
    )
    gates = {g.name: g for g in scorecard.gates_of(row, street.make_config(tmp_path).evaluation.gates)}
    assert not gates["plate_leak_rate"].passed
    assert not gates["coverage"].passed
    assert "no such figure" in gates["coverage"].reason


def test_one_pixel_in_each_image_that_was_not_to_be_replaced_is_counted(tmp_path):
    solid = baselines.redaction("solid")

    def spill(scene):
        treated = solid.apply([scene])[0]
        treated.image_rgb[-1, -1] = 255 - treated.image_rgb[-1, -1]
        return treated

    run, _, rows = judge(tmp_path, {"spilling": Simple("spilling", "ground_truth", spill)})
    outside = run.observed["solid"].outside[1]
    figures = rows["spilling", "overall", "held_out"]
    assert figures["changed_outside_masks"].value == pytest.approx(len(run.val) / outside)
    assert rows["solid", "overall", "held_out"]["changed_outside_masks"].value == 0


def test_a_region_that_is_missed_counts_as_leaked_whatever_the_judges_see(tmp_path):
    def treat(scene):
        treated = baselines.redaction("solid").apply([scene])[0]
        return Treated(treated.image_rgb, treated.masks_xyxy[:1], [None])

    _, _, rows = judge(tmp_path, {"half": Simple("half", "detected", treat)})
    figures = rows["half", "overall", "held_out"]
    assert figures["plate_leak_rate"].value == 1
    assert figures["coverage"].value == pytest.approx(1 / 3)
    assert figures["reid_rank1"].value >= 0.5


@pytest.mark.parametrize(
    ("judges", "metrics", "reason"),
    [
        ({"recognizer": street.BlindRecognizer()}, ("reid_rank1", "arcface_mean_sim", "tar_at_far_1e2"), "rank-1"),
        ({"reader": street.BlindReader()}, ("plate_leak_rate", "easyocr_plate_acc", "plate_cer"), "exact reads"),
        ({"blind_detector": True}, ("val_map", "map_retention"), "mAP50"),
    ],
    ids=["recognizer", "reader", "detector"],
)
def test_a_blind_judge_gives_null_and_says_so(tmp_path, judges, metrics, reason):
    unified = street.make_street(tmp_path)
    _, maker, rows = judge(tmp_path, unified=unified, judges=street.make_judges(unified, **judges))
    for metric in metrics:
        figure = rows["solid", "overall", "held_out"][metric]
        assert figure.value is None
        assert "blind" in figure.reason
        assert reason in figure.reason
        assert rows["none", "overall", "training"][metric].value is not None
    entries = scorecard.judge_entries(street.make_judges(unified, **judges), maker)
    assert sum(1 for entry in entries.values() if entry.blind) == 1


class Counting:
    """Any judge, with the number of pictures that it was shown."""

    def __init__(self, inner, asked):
        self.inner, self.shown = inner, 0
        setattr(self, asked, self._ask)
        self._asked = asked

    def _ask(self, pictures, **options):
        self.shown += len(pictures)
        return getattr(self.inner, self._asked)(pictures, **options)

    def __getattr__(self, name):
        return getattr(self.inner, name)


def counted(unified, *, blind):
    judges = street.make_judges(
        unified,
        recognizer=street.BlindRecognizer() if blind else None,
        reader=street.BlindReader() if blind else None,
        blind_detector=blind,
    )
    for group, asked in ((judges.recognizers, "embed"), (judges.readers, "read"), (judges.detectors, "find")):
        group["held_out"] = Counting(group["held_out"], asked)
    return judges, [group["held_out"] for group in (judges.recognizers, judges.readers, judges.detectors)]


@pytest.mark.parametrize("blind", [True, False])
def test_who_could_not_see_the_originals_is_not_shown_what_methods_made_of_them(tmp_path, blind):
    unified = street.make_street(tmp_path, images_count=20)
    judges, (recognizer, reader, detector) = counted(unified, blind=blind)
    methods = {"blur": baselines.redaction("blur")}
    judge(tmp_path, methods, unified=unified, judges=judges)
    looks = 1 if blind else 3  # the originals, or also solid and blurred ones
    assert (recognizer.shown, reader.shown, detector.shown) == (40 * looks, 20 * looks, 20 * looks)


def test_who_has_nothing_to_prove_itself_by_is_not_asked_at_all(tmp_path):
    unified = street.make_street(tmp_path, images_count=20, identities=False)
    judges, (recognizer, reader, detector) = counted(unified, blind=False)
    _, maker, _ = judge(tmp_path, unified=unified, judges=judges)
    assert (recognizer.shown, reader.shown, detector.shown) == (0, 0, 40)
    assert "no identities" in maker.proofs["recognizer", "held_out"].reason
    assert "no serials" in maker.proofs["reader", "held_out"].reason


def test_what_blind_judges_are_spared_changes_no_figure(tmp_path, monkeypatch):
    unified = street.make_street(tmp_path, images_count=20)
    judges, (*_, spared) = counted(unified, blind=True)
    _, _, rows = judge(tmp_path, unified=unified, judges=judges)
    only = Run._look_at_methods
    monkeypatch.setattr(Run, "_look_at_methods", lambda run, observer, blind: only(run, observer, []))
    judges, (*_, asked) = counted(unified, blind=True)
    _, _, expected = judge(tmp_path, unified=unified, judges=judges)
    assert asked.shown > spared.shown
    assert rows == expected


def test_shuffled_identities_fall_to_chance_and_make_the_judge_blind(tmp_path):
    unified = street.make_street(tmp_path)
    persons = [a["identity"] for a in unified.annotations if a["category_id"] == 1]
    for number, annotation in enumerate(a for a in unified.annotations if a["category_id"] == 1):
        annotation["identity"] = persons[(number * 37 + 11) % len(persons)]
    _, maker, rows = judge(tmp_path, unified=unified)
    assert maker.proofs["recognizer", "held_out"].value == pytest.approx(0.1, abs=0.08)
    assert rows["none", "overall", "held_out"]["reid_rank1"].value is None


def test_without_identities_and_serials_there_are_no_privacy_figures(tmp_path):
    unified = street.make_street(tmp_path, identities=False)
    _, _, rows = judge(tmp_path, unified=unified)
    figures = rows["solid", "overall", "held_out"]
    assert "no identities" in figures["reid_rank1"].reason
    assert "no serials" in figures["plate_leak_rate"].reason
    assert figures["val_map"].value is not None


def test_among_few_people_rank_5_says_nothing(tmp_path):
    unified = street.make_street(tmp_path, images_count=12, people=5)
    _, _, rows = judge(tmp_path, unified=unified)
    figures = rows["none", "overall", "held_out"]
    assert figures["reid_rank1"].value == 1
    assert figures["reid_rank5"].reason == "only 5 people: all are among the 5 nearest"


def test_rates_and_their_differences_are_bounded_by_the_number_of_persons_even_where_nothing_differs(tmp_path):
    unified, config = street.make_street(tmp_path), street.make_config(tmp_path)
    methods = {"other_face": baselines.other_face(baselines.Donors.read(config, unified))}
    _, _, rows = judge(tmp_path, methods, unified=unified, config=config)
    none, other = rows["none", "overall", "held_out"], rows["other_face", "overall", "held_out"]
    exact = stats.binomtest(0, 10).proportion_ci(method="exact").high
    assert none["reid_rank1"].interval == pytest.approx((1 - exact, 1), rel=0.02)
    assert other["reid_excess"].interval == pytest.approx((-exact, exact), rel=0.02)


def test_an_identity_of_0_is_somebody(tmp_path):
    unified = street.make_street(tmp_path, images_count=12)
    expected = judge(tmp_path, unified=unified)[2]
    numbers = {name: number for number, name in enumerate(sorted({a["identity"] for a in unified.annotations}))}
    assert numbers["person-000"] == 0
    for annotation in unified.annotations:
        annotation["identity"] = numbers[annotation["identity"]]
    assert judge(tmp_path, unified=unified)[2] == expected


def test_by_one_person_alone_no_recognizer_proves_that_it_can_see(tmp_path):
    unified = street.make_street(tmp_path, images_count=12)
    for annotation in unified.annotations:
        if annotation["category_id"] == 1:
            annotation["identity"] = "person-000"
    _, maker, rows = judge(tmp_path, unified=unified)
    assert "all faces are of one person" in maker.proofs["recognizer", "held_out"].reason
    assert rows["none", "overall", "held_out"]["reid_rank1"].value is None


def test_crowds_are_anonymized_but_not_judged(tmp_path):
    unified = street.make_street(tmp_path, images_count=12, crowds=True)
    run, _, rows = judge(tmp_path, unified=unified)
    assert len(run.subjects) == 36
    assert rows["solid", "overall", "held_out"]["coverage"].n == 36
    assert rows["none", "overall", "held_out"]["val_map"].value == pytest.approx(1)


def test_a_slice_with_too_few_samples_says_so(tmp_path):
    unified = street.make_street(tmp_path, images_count=24, styles=("FR",) * 7 + ("NL",))
    _, _, rows = judge(tmp_path, unified=unified)
    figure = rows["solid", "style:NL", "held_out"]["plate_leak_rate"]
    assert figure.reason == "only 3 plates; a figure needs 10"
    assert rows["solid", "style:FR", "held_out"]["plate_leak_rate"].value == 0


def test_a_style_judged_alone_gets_the_figures_of_the_whole_run(tmp_path):
    unified = street.make_street(tmp_path)
    _, _, whole = judge(tmp_path, unified=unified)
    _, _, alone = judge(tmp_path, unified=unified, styles=["DE"])
    assert {slice_name for _, slice_name, _ in alone} == {"style:DE"}
    for key, figures in alone.items():
        for name, figure in figures.items():
            other = whole[key][name]
            assert (figure.value, figure.reason) == (pytest.approx(other.value), other.reason), (key, name)


def test_judging_twice_gives_the_same_figures(tmp_path):
    unified = street.make_street(tmp_path, images_count=20)
    assert judge(tmp_path, unified=unified)[2] == judge(tmp_path, unified=unified)[2]


@pytest.mark.slow
def test_a_trained_attacker_breaks_a_blur_and_stays_near_its_chance_on_solid_color(tmp_path, monkeypatch):
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 16, 7, 8, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 14 * 14, 512)]
    network = nn.Sequential(*layers)
    monkeypatch.setattr(attacks, "load_recognizer_twin", lambda *_, **__: RecognizerTwin(copy.deepcopy(network)))
    settings = {"kinds": ["parrot"], "methods": ["solid", "blur"], "steps": 12}
    config = street.make_config(tmp_path, attacks=settings)
    blur = {"blur": baselines.redaction("blur")}
    unified = street.make_street(tmp_path, people=6, images_count=30)
    _, _, rows = judge(tmp_path, blur, config=config, unified=unified)
    solid, weak = rows["solid", "overall", "held_out"], rows["blur", "overall", "held_out"]
    assert solid["attack_parrot"].chance == pytest.approx(1 / 6)
    assert solid["attack_parrot"].value < 0.45
    assert weak["attack_parrot"].value > solid["attack_parrot"].value + 0.2
    assert "attack_restoration" not in solid
    assert solid["attack_linkability"].value < 0.45
    assert rows["none", "overall", "held_out"]["attack_linkability"].value == 1


def test_times_and_skin_tones_are_slices_where_the_data_knows_them(tmp_path):
    unified = street.make_street(tmp_path, images_count=24)
    for number, image in enumerate(unified.images):
        image["time"] = "night" if number % 2 else "day"
    for annotation in unified.annotations:
        if annotation["category_id"] == 1:
            annotation["person"] = {"skin_tone": (annotation["id"] % 3) / 2}
    _, _, rows = judge(tmp_path, unified=unified)
    assert rows["solid", "time:night", "held_out"]["coverage"].n == 36
    tones = [a["person"]["skin_tone"] for a in unified.annotations if a["category_id"] == 1]
    assert rows["solid", "skin:darkest third", "held_out"]["arcface_mean_sim"].n == tones.count(1.0)
    assert "plate_leak_rate" not in rows["solid", "skin:darkest third", "held_out"]


def test_an_attacker_that_fails_on_the_originals_is_called_blind(tmp_path, monkeypatch):
    blind = attacks.Outcome(np.zeros(20), np.arange(20), 0.1, "parrot")
    monkeypatch.setattr(attacks, "parrot", lambda *_: blind)
    monkeypatch.setattr(attacks, "load_recognizer_twin", lambda *_, **__: None)
    config = street.make_config(tmp_path, attacks={"kinds": ["parrot"], "methods": ["solid"]})
    _, _, rows = judge(tmp_path, config=config, unified=street.make_street(tmp_path, images_count=12))
    assert "the attacker is blind here" in rows["solid", "overall", "held_out"]["attack_parrot"].reason
