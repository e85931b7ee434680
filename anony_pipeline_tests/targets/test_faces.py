import dataclasses

import numpy as np
import pytest

from anony_pipeline.errors import MediaError
from anony_pipeline.ops import crops, images, masks
from anony_pipeline.runtime import parallel
from anony_pipeline.structures.regions import Kind, Region
from anony_pipeline.targets import faces, selection
from anony_pipeline.targets.store import TargetStore
from anony_pipeline_tests.training import tiny


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faces")
    tiny.make_coco(folder, plates=False)
    return folder


@pytest.fixture
def coco(root):
    return tiny.coco.load(root / "unified_train.json")


def make(config, coco):
    return faces.make_face_targets(config, coco, recognizer=tiny.ColorRecognizer())


def chosen_faces(config, coco):
    return selection.choose(coco, Kind.FACE, min_region_px=8, size_hw=(32, 32), context=2.0)[0]


def test_a_donor_is_never_the_same_person_nor_of_the_same_photograph(tmp_path, coco):
    chosen = chosen_faces(tiny.make_config(tmp_path), coco)
    pool = faces.make_pool(chosen, seed=0)
    for item in chosen:
        donors = [pool.faces[number] for number in faces.rank_donors(item, pool, seed=0)]
        assert donors
        assert all(donor.image["id"] != item.image["id"] for donor in donors)
        assert all(donor.region.track != item.region.track for donor in donors)


def test_every_accepted_donor_is_far_enough_for_the_recognizer(tmp_path, coco):
    config = tiny.make_config(tmp_path, targets__min_donor_distance=0.5)
    chosen = chosen_faces(config, coco)
    run = faces._FaceTargets(
        config,
        coco,
        (chosen, chosen),
        TargetStore(tmp_path / "store", 1),
        tiny.ColorRecognizer(),
        faces.TargetReport("faces", "donor_blend"),
    )
    candidates = {item.annotation["id"]: faces.rank_donors(item, run.pool, 0) for item in chosen}
    with parallel.Workers(0) as workers:
        run._load_donors({number for numbers in candidates.values() for number in numbers}, workers)
    for item in chosen:
        crop = crops.cut(images.read(coco.image_file(item.image)), item.window, (32, 32))
        embedding = run._embed([crop], [item])[0]
        for number in run._accepted(embedding, candidates[item.annotation["id"]]):
            assert 1 - embedding @ run.embeddings[number] >= 0.5


def test_a_target_changes_the_face_and_nothing_outside_the_mask(tmp_path, coco):
    config = tiny.make_config(tmp_path)
    report = make(config, coco)
    assert report.made == report.regions == len(report.records) == 12
    store = TargetStore(tmp_path / "targets", 1)
    annotations = {annotation["id"]: annotation for annotation in coco.annotations}
    records = {image["id"]: image for image in coco.images}
    for record in report.records:
        annotation = annotations[record.annotation_id]
        original = crops.cut(images.read(coco.image_file(records[annotation["image_id"]])), record.window, (32, 32))
        target = store.read(record.target_file)
        mask = masks.crop_mask([Region.from_coco(annotation)], record.window, (32, 32))
        assert np.array_equal(target[mask == 0], original[mask == 0])
        assert (target[mask > 0] != original[mask > 0]).any(axis=1).mean() > 0.3


def test_a_second_run_makes_nothing_and_gives_the_same_records(tmp_path, coco):
    config = tiny.make_config(tmp_path)
    first, second = make(config, coco), make(config, coco)
    assert (second.made, second.reused) == (0, first.made)
    assert second.records == first.records


def test_an_interrupted_run_makes_only_what_is_missing(tmp_path, coco):
    config = tiny.make_config(tmp_path)
    first = make(config, coco)
    lost = TargetStore(tmp_path / "targets", 1).root / first.records[3].target_file
    before = lost.read_bytes()
    lost.unlink()
    second = make(config, coco)
    assert (second.made, second.reused) == (1, first.made - 1)
    assert lost.read_bytes() == before


@pytest.mark.slow
def test_several_processes_make_the_same_targets_as_one(tmp_path, coco, monkeypatch):
    alone = make(tiny.make_config(tmp_path / "alone"), coco)
    monkeypatch.setattr(parallel, "WORTH_IT", 1)
    monkeypatch.setattr(parallel, "cores", lambda: 2)
    monkeypatch.setattr(faces, "FACES_AT_ONCE", 5)
    together = make(tiny.make_config(tmp_path / "together"), coco)
    assert together.records == alone.records
    stores = [TargetStore(tmp_path / name / "targets", 1) for name in ("alone", "together")]
    for record in alone.records:
        np.testing.assert_array_equal(*(store.read(record.target_file) for store in stores))


def test_another_parameter_makes_targets_anew(tmp_path, coco):
    make(tiny.make_config(tmp_path), coco)
    report = make(tiny.make_config(tmp_path, targets__face_method="k_same", targets__k=2), coco)
    assert report.reused == 0
    assert report.made > 0


def test_self_targets_are_the_crops_themselves(tmp_path, coco):
    config = tiny.make_config(tmp_path, targets__face_method="self")
    report = faces.make_face_targets(config, coco)
    original, target = report.examples[0]
    assert np.array_equal(original, target)
    assert faces.make_face_targets(config, coco).reused == report.made


def test_faces_without_a_donor_are_counted_and_left_out(tmp_path, coco):
    report = make(tiny.make_config(tmp_path, targets__min_donor_distance=2.0), coco)
    assert report.made == 0
    assert report.failed == {"no donor that differs enough": 12}


def test_a_single_face_finds_no_donor(tmp_path, coco):
    alone = dataclasses.replace(coco, annotations=coco.annotations[:1])
    assert make(tiny.make_config(tmp_path), alone).failed == {"no other face": 1}


def test_an_image_that_was_lost_is_named_with_the_file_that_names_it(tmp_path, coco):
    lost = [{**coco.images[0], "file_name": "images/lost.png"}, *coco.images[1:]]
    with pytest.raises(MediaError, match=r"can't be read(.|\n)*lost\.png(.|\n)*unified_train\.json"):
        make(tiny.make_config(tmp_path), dataclasses.replace(coco, images=lost))


def test_a_set_without_faces_gives_an_empty_report(tmp_path, coco):
    report = make(tiny.make_config(tmp_path), dataclasses.replace(coco, annotations=[]))
    assert (report.regions, report.records) == (0, [])


def test_crowds_and_small_faces_get_no_target(tmp_path, coco):
    annotations = [dict(annotation) for annotation in coco.annotations]
    annotations[0]["iscrowd"] = 1
    annotations[1]["bbox"] = [5, 5, 40, 7]
    report = make(tiny.make_config(tmp_path), dataclasses.replace(coco, annotations=annotations))
    assert report.too_small == 2
    assert len(report.records) == 10


def test_landmarks_bring_a_donors_features_into_place():
    rng = np.random.default_rng(0)
    canvas = np.full((64, 64, 3), 90, np.uint8)
    marks = tiny.face(canvas, (10, 8, 30, 36), rng)
    donor = Region(Kind.FACE, (10, 8, 40, 44), landmarks=tuple(map(tuple, marks)))
    goal = Region(Kind.FACE, (20, 18, 50, 54), landmarks=tuple((x + 10, y + 10) for x, y in marks))
    moved = faces.warp_onto(canvas, donor, goal)
    assert np.array_equal(moved[12:60, 12:60], canvas[2:50, 2:50])


def test_boxes_serve_where_landmarks_are_unknown():
    canvas = np.zeros((64, 64, 3), np.uint8)
    canvas[8:24, 8:24] = 200
    moved = faces.warp_onto(canvas, Region(Kind.FACE, (8, 8, 24, 24)), Region(Kind.FACE, (16, 16, 48, 48)))
    assert (moved[18:46, 18:46] == 200).all()
    assert (moved[:14] == 0).all()


def test_color_is_taken_from_the_original():
    rng = np.random.default_rng(0)
    original = np.clip(rng.normal((180, 120, 90), 12, (64, 64, 3)), 0, 255).astype(np.uint8)
    donor = np.clip(rng.normal((60, 60, 120), 12, (64, 64, 3)), 0, 255).astype(np.uint8)
    region = Region(Kind.FACE, (16, 12, 48, 52))
    blended = faces.blend_face(original, donor, region)
    assert np.abs(blended[20:44, 22:42].mean(axis=(0, 1)) - (180, 120, 90)).max() < 12


def test_the_donors_features_are_there_and_the_originals_are_gone():
    rng = np.random.default_rng(0)
    original, donor = (
        np.clip(rng.normal(120, 30, (16, 16, 1)).repeat(3, 2), 0, 255).astype(np.uint8) for _ in range(2)
    )
    original, donor = (images.resize(picture, (64, 64)) for picture in (original, donor))
    blended = faces.blend_face(original, donor, Region(Kind.FACE, (12, 8, 52, 56)))
    middle = [picture[20:44, 22:42, 0].ravel() for picture in (blended, donor, original)]
    likeness = np.corrcoef(middle)
    assert likeness[0, 1] > 0.95
    assert abs(likeness[0, 2]) < 0.5


def test_a_turned_head_has_a_yaw_and_a_tilted_one_has_none():
    frontal = Region(Kind.FACE, (0, 0, 10, 10), landmarks=((3, 4), (7, 4), (5, 6), (4, 8), (6, 8)))
    turned = dataclasses.replace(frontal, landmarks=((3, 4), (7, 4), (6.5, 6), (4, 8), (6, 8)))
    angle = np.exp(0.4j)
    points = [complex(x, y) * angle for x, y in frontal.landmarks]
    tilted = dataclasses.replace(frontal, landmarks=tuple((p.real, p.imag) for p in points))
    assert faces.yaw_of(frontal) == pytest.approx(0)
    assert faces.yaw_of(tilted) == pytest.approx(0)
    assert faces.yaw_of(turned) == pytest.approx(1.5 / 4)
    assert np.isnan(faces.yaw_of(Region(Kind.FACE, (0, 0, 1, 1))))
