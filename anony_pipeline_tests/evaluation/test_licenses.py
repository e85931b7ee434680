"""What may be done with an anonymizer follows from everything that it was trained with, and unknown terms forbid."""

import pytest

from anony_pipeline.evaluation import licenses
from anony_pipeline.evaluation.schema import Licence
from anony_pipeline_tests.evaluation import street
from anony_pipeline_tests.evaluation.test_comparison import card


def config(root, *, source=None, judges=None, model_id="shipped"):
    made = street.make_config(root)
    data = made.data.model_copy(update={"sources": (made.data.sources[0].model_copy(update=source or {}),)})
    diffusers = made.model.generator.diffusers.model_copy(update={"model_id": model_id})
    generator = made.model.generator.model_copy(update={"diffusers": diffusers})
    changes = {"data": data, "judges": made.judges.model_copy(update=judges or {})}
    return made.model_copy(update=changes | {"model": made.model.model_copy(update={"generator": generator})})


def allowed(found):
    return card().model_copy(update={"licences": found}).commercial_use


def test_drawn_images_and_shipped_weights_may_be_used_commercially(tmp_path):
    found = licenses.of_checkpoint(config(tmp_path))
    assert {terms.what for terms in found} >= {"images", "generator", "detector", "recognizer", "held out reader"}
    assert allowed(found) is True


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({"source": {"ground_truth": None}}, False),
        ({"source": {"ground_truth": None, "licence": "MIT", "commercial_use": True}}, True),
        ({"source": {"licence": "CC BY-NC-ND 4.0", "commercial_use": False}}, False),
        ({"judges": {"recognizer": "buffalo_l"}}, False),
        ({"judges": {"held_out_recognizer": "buffalo_l"}}, True),
        ({"judges": {"reader": "easyocr"}}, True),
        ({"model_id": "sd2-inpainting"}, True),
        ({"model_id": "/home/somebody/model"}, False),
    ],
    ids=["unknown", "MIT", "NC", "in a loss", "judged only", "easyocr", "sd2", "own folder"],
)
def test_one_part_without_leave_forbids_it_unless_it_only_judged(tmp_path, changes, verdict):
    assert allowed(licenses.of_checkpoint(config(tmp_path, **changes))) is verdict


def test_no_path_of_this_machine_is_named(tmp_path):
    (generator,) = [
        t for t in licenses.of_checkpoint(config(tmp_path, model_id="/a/b/model/")) if t.what == "generator"
    ]
    assert (generator.name, generator.licence) == ("model", None)


def test_of_a_folder_only_the_judges_terms_are_known(tmp_path):
    found = licenses.of_judges(config(tmp_path))
    assert found
    assert not any(terms.trained_with for terms in found)
    assert allowed(found) is None


def test_without_licenses_nothing_is_known():
    assert allowed(()) is None
    assert allowed((Licence(what="x", name="y", licence=None, commercial_use=None, trained_with=True),)) is False
