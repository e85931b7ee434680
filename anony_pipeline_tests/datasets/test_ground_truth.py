"""The procedural sidecar: joined by kind and overlap, and refused when it is something else."""

import json

import pytest

from anony_pipeline.datasets import coco, unify
from anony_pipeline.errors import DatasetError
from anony_pipeline_tests.datasets import layouts

QUAD = [[90, 48], [110, 48], [110, 53], [90, 53]]
POINTS = [[95, 49], [105, 49], [100, 50], [96, 51], [104, 51]]
PLATE = {"kind": "license_plate", "bbox": [90, 47.5, 20, 5], "identity": "plate-1", "serial": "AB-123-CD", "quad": QUAD}
FACE = {
    "kind": "face",
    "bbox": [90, 47.5, 20, 5],
    "identity": "person-7",
    "serial": None,
    "landmarks": POINTS,
    "attributes": {"age": 40},
}


def unified(folder, text, regions, name="images/paris/1.jpg"):
    layouts.write_pp4av(folder, {"paris/1": text})
    sidecar = folder / "ground_truth.json"
    images = {name: {"time": "night", "regions": regions}}
    sidecar.write_text(json.dumps({"format": "anony_pipeline.ground_truth/1", "images": images}))
    source = layouts.pp4av_source(folder, ground_truth=str(sidecar))
    report = unify.unify(layouts.data(source), folder / "unified")
    return report, coco.load(folder / "unified/unified_train.json")


def test_an_annotation_gets_the_facts_of_the_region_of_its_kind(tmp_path):
    report, found = unified(tmp_path, "1 0.5 0.5 0.1 0.05\n0 0.5 0.5 0.1 0.05\n", [FACE, PLATE])
    plate, face = found.annotations
    assert (plate["identity"], plate["serial"], plate["quad"]) == ("plate-1", "AB-123-CD", QUAD)
    assert (face["identity"], face["person"], face["landmarks"]) == ("person-7", {"age": 40}, POINTS)
    assert "serial" not in face
    assert (found.images[0]["time"], report.joined, report.problems) == ("night", 2, ())
    region = found.regions_by_image()[1][0]
    assert (region.track, region.quad[2]) == ("plate-1", (110.0, 53.0))


def test_each_region_goes_to_the_annotation_that_it_overlaps_most_and_only_to_it(tmp_path):
    rows = "1 0.501 0.5 0.1 0.05\n1 0.5 0.5 0.1 0.05\n"
    report, found = unified(tmp_path, rows, [PLATE])
    assert ["identity" in annotation for annotation in found.annotations] == [False, True]
    assert [(problem.scope, problem.what) for problem in report.problems] == [
        ("note", "the ground truth doesn't know this box")
    ]


@pytest.mark.parametrize(("shift", "joined"), [(0.004, 1), (0.006, 0)], ids=["IoU 0.92", "IoU 0.89"])
def test_an_overlap_below_nine_tenths_is_another_thing(tmp_path, shift, joined):
    report, _ = unified(tmp_path, f"1 {0.5 + shift} 0.5 0.1 0.05\n", [PLATE])
    assert report.joined == joined


def test_an_image_that_the_sidecar_does_not_know_is_noted(tmp_path):
    report, found = unified(tmp_path, "1 0.5 0.5 0.1 0.05\n", [PLATE], name="images/paris/2.jpg")
    assert "identity" not in found.annotations[0]
    assert [problem.what for problem in report.problems] == ["the ground truth doesn't know this image"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "can't be read"),
        ("", "can't be read"),
        ("[]", "can't be read"),
        (
            '{"format": "anony_pipeline.ground_truth/1", "images": {"a": {"regions": [{"kind": "face"}]}}}',
            "can't be read",
        ),
        ('{"format": "another/1", "images": {}}', "another format"),
    ],
    ids=["missing", "empty", "list", "no box", "format"],
)
def test_a_sidecar_that_is_something_else_is_an_error(tmp_path, content, message):
    layouts.write_pp4av(tmp_path, {"paris/1": ""})
    if content is not None:
        (tmp_path / "truth.json").write_text(content)
    source = layouts.pp4av_source(tmp_path, ground_truth=str(tmp_path / "truth.json"))
    with pytest.raises(DatasetError, match=message):
        unify.unify(layouts.data(source), tmp_path / "unified")
