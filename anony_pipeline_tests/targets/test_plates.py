import dataclasses

import numpy as np
import pytest

from anony_pipeline.ops import crops, images
from anony_pipeline.plates import serials
from anony_pipeline.plates.styles import load_styles
from anony_pipeline.runtime import parallel
from anony_pipeline.targets import plates
from anony_pipeline.targets.store import TargetStore
from anony_pipeline_tests.training import tiny


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plates")
    tiny.make_coco(folder, count=4, faces=False)
    return folder


@pytest.fixture
def coco(root):
    return tiny.coco.load(root / "unified_train.json")


def test_each_plate_gets_a_valid_serial_far_from_its_own(tmp_path, coco):
    report = plates.make_plate_targets(tiny.make_config(tmp_path), coco, ["FR"])["FR"]
    originals = {annotation["id"]: annotation["serial"] for annotation in coco.annotations}
    assert report.made == len(report.records) == 4
    for record in report.records:
        assert "FR" in serials.parse(record.serial, load_styles())
        own = serials.normalize(originals[record.annotation_id])
        assert serials.edit_distance(serials.normalize(record.serial), own) > 2


def test_the_target_shows_another_plate_in_the_same_place(tmp_path, coco):
    report = plates.make_plate_targets(tiny.make_config(tmp_path), coco, ["FR"])["FR"]
    store = TargetStore(tmp_path / "targets", 1)
    record = report.records[0]
    original = crops.cut(images.read(coco.image_file(coco.images[0])), record.window, (32, 96))
    target, anchor = store.read(record.target_file), store.read(record.anchor_file)
    assert np.array_equal(target, anchor)
    assert np.array_equal(target[:3], original[:3])
    assert np.abs(target[12:20, 30:66].astype(int) - original[12:20, 30:66]).mean() > 5


def test_styles_that_were_not_asked_for_are_left_alone(tmp_path, coco):
    reports = plates.make_plate_targets(tiny.make_config(tmp_path), coco, ["DE", "unspecified"])
    assert {key: report.regions for key, report in reports.items()} == {"DE": 0, "unspecified": 0}


def test_images_without_a_style_belong_to_the_neutral_one(tmp_path, coco):
    nameless = dataclasses.replace(coco, images=[{**image, "plate_style": None} for image in coco.images])
    report = plates.make_plate_targets(tiny.make_config(tmp_path), nameless, ["unspecified"])["unspecified"]
    assert report.made == 4
    assert {record.style for record in report.records} == {"unspecified"}


def test_plates_that_are_too_small_are_counted_by_their_style(tmp_path, coco):
    first, *others = coco.annotations
    smaller = dataclasses.replace(coco, annotations=[{**first, "bbox": [*first["bbox"][:2], 9, 3]}, *others])
    reports = plates.make_plate_targets(tiny.make_config(tmp_path), smaller, ["DE", "FR"])
    assert {key: (report.regions, report.too_small, report.made) for key, report in reports.items()} == {
        "DE": (0, 0, 0),
        "FR": (4, 1, 3),
    }


def test_a_second_run_makes_nothing(tmp_path, coco):
    config = tiny.make_config(tmp_path)
    first = plates.make_plate_targets(config, coco, ["FR"])["FR"]
    second = plates.make_plate_targets(config, coco, ["FR"])["FR"]
    assert (second.made, second.reused) == (0, 4)
    assert second.records == first.records


def test_another_font_ratio_makes_plates_anew_and_another_batch_size_does_not(tmp_path, coco):
    plates.make_plate_targets(tiny.make_config(tmp_path), coco, ["FR"])
    same = tiny.make_config(tmp_path, training__batch_size=7)
    assert plates.make_plate_targets(same, coco, ["FR"])["FR"].made == 0
    other = tiny.make_config(tmp_path, plate_text_font_ratio_min=0.5)
    assert plates.make_plate_targets(other, coco, ["FR"])["FR"].made == 4


def test_another_seed_draws_other_serials(tmp_path, coco):
    first = plates.make_plate_targets(tiny.make_config(tmp_path), coco, ["FR"])["FR"]
    second = plates.make_plate_targets(tiny.make_config(tmp_path, seed=1), coco, ["FR"])["FR"]
    assert [record.serial for record in first.records] != [record.serial for record in second.records]


def test_a_plate_outside_its_image_is_counted_and_left_out(tmp_path, coco):
    annotations = [dict(annotation) for annotation in coco.annotations]
    annotations[0]["bbox"] = [500.0, 500.0, 60.0, 20.0]
    outside = dataclasses.replace(coco, annotations=annotations)
    report = plates.make_plate_targets(tiny.make_config(tmp_path), outside, ["FR"])["FR"]
    assert (report.made, sum(report.failed.values())) == (3, 1)


@pytest.mark.slow
def test_several_processes_make_the_same_targets(tmp_path, coco, monkeypatch):
    one = plates.make_plate_targets(tiny.make_config(tmp_path / "one"), coco, ["FR"])["FR"]
    monkeypatch.setattr(parallel, "WORTH_IT", 1)
    monkeypatch.setattr(parallel, "cores", lambda: 2)
    two = plates.make_plate_targets(tiny.make_config(tmp_path / "two"), coco, ["FR"])["FR"]
    assert two.records == one.records
    for record in one.records:
        first, second = (tmp_path / name / "targets" / record.target_file for name in ("one", "two"))
        assert first.read_bytes() == second.read_bytes()


def test_a_contact_sheet_lies_in_the_private_store(tmp_path, coco):
    plates.make_plate_targets(tiny.make_config(tmp_path), coco, ["FR", "DE"])
    page = tmp_path / "targets" / "plates_FR.png"
    assert images.read(page).shape[1] > 96
    assert page.stat().st_mode & 0o077 == 0
    assert not (tmp_path / "targets" / "plates_DE.png").exists()
