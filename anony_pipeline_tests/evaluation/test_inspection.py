"""The numbers of GB/T 44464: who is in scope, and what of it holds."""

import numpy as np
import pytest

from anony_pipeline.evaluation import baselines, coverage, inspection
from anony_pipeline.evaluation.methods import Simple, Treated
from anony_pipeline.evaluation.observations import visible_share
from anony_pipeline.evaluation.run import Run
from anony_pipeline.structures.regions import Kind
from anony_pipeline_tests.evaluation import street


def evidence(tmp_path, treat=None, *, unified=None, reader=None):
    unified = unified or street.make_street(tmp_path, images_count=20)
    solid = baselines.redaction("solid")
    method = Simple("anonymizer", "detected", treat or (lambda scene: solid.apply([scene])[0]))
    run = Run(street.make_config(tmp_path), unified, street.make_judges(unified, reader=reader), {"ours": method})
    run.look()
    return run.evidence({})


def answers(found, profile=None):
    return {asked.name: asked for asked in inspection.requirements(found, "ours", profile)}


def test_counts_and_rates_are_held_against_the_standard(tmp_path):
    found = answers(evidence(tmp_path), "solid")
    assert (found["pictures"].value, found["pictures"].holds) == (20, False)
    assert (found["faces in scope"].value, found["plates in scope"].value) == (40, 20)
    assert (found["faces anonymized"].value, found["faces anonymized"].holds) == (1, True)
    assert (found["replaced, but neither face nor plate"].value, found["plates anonymized"].holds) == (0, True)
    assert found["100 pictures looked at by people"].holds is None


def test_missed_faces_and_boxes_in_vain_are_counted(tmp_path):
    def careless(scene):
        treated = baselines.redaction("solid").apply([scene])[0]
        return Treated(treated.image_rgb, [*treated.masks_xyxy[1:], (150, 60, 190, 110)], [None] * 3)

    found = answers(evidence(tmp_path, careless))
    assert (found["faces anonymized"].value, found["faces anonymized"].holds) == (0.5, False)
    vain = found["replaced, but neither face nor plate"]
    assert (vain.value, vain.holds) == (pytest.approx(1 / 3), False)


def test_hidden_small_and_unreadable_objects_are_out_of_scope(tmp_path):
    unified = street.make_street(tmp_path, images_count=20)
    faces = [a for a in unified.annotations if a["category_id"] == 1]
    faces[0]["person"], faces[1]["person"] = {"visible": 0.5}, {"visible": 0.51}
    faces[2]["bbox"] = [*faces[2]["bbox"][:2], 31.0, 40.0]
    made = evidence(tmp_path, unified=unified, reader=street.BlindReader())
    assert inspection.in_scope(made, Kind.FACE).sum() == 38
    made.originals.readings = {"held_out": ["", *made.originals.readings["training"][1:]]}
    assert inspection.in_scope(made, Kind.PLATE).sum() == 19
    made.originals.readings = {}
    assert inspection.in_scope(made, Kind.PLATE).sum() == 20


def test_plates_whose_serials_nobody_knows_count_by_size_alone(tmp_path):
    unified = street.make_street(tmp_path, images_count=20, identities=False)
    assert inspection.in_scope(evidence(tmp_path, unified=unified), Kind.PLATE).sum() == 20


def test_a_generated_face_does_not_pass_to_the_letter_and_a_solid_one_does(tmp_path):
    made = evidence(tmp_path)
    name = "nothing that is recognized as a face"
    verdicts = {profile: answers(made, profile)[name].holds for profile in ("realistic", "blur", "solid", None)}
    assert verdicts == {"realistic": False, "blur": None, "solid": True, None: None}


def test_what_is_visible_is_taken_from_what_the_data_says():
    assert [visible_share({"attributes": {"occlusion": level}}) for level in (0, 1, 2)] == [1, 0.7, 0.5]
    assert visible_share({}) == 1
    assert visible_share({"person": {"visible": 0.3}, "attributes": {"occlusion": 0}}) == 0.3


def test_a_replaced_box_is_in_vain_if_neither_lies_in_the_other_by_half():
    region = np.array([[10, 10, 30, 30]], np.float32)
    boxes = np.array([[5, 5, 60, 60], [12, 12, 16, 16], [28, 28, 48, 48], [50, 50, 60, 60]], np.float32)
    assert coverage.in_vain(boxes, region).tolist() == [False, False, True, True]
    assert coverage.in_vain(boxes, region[:0]).all()
    assert coverage.in_vain(boxes[:0], region).shape == (0,)
