import stat

import numpy as np
import pytest
import torch

from anony_pipeline.anonymize.verifying import plate_crop
from anony_pipeline.errors import DatasetError
from anony_pipeline.losses import identity
from anony_pipeline.models.reader import INPUT_HW
from anony_pipeline.models.recognizer import align
from anony_pipeline.ops import crops, images, masks
from anony_pipeline.runtime import parallel
from anony_pipeline.structures.regions import Kind, Region
from anony_pipeline.targets import faces, plates
from anony_pipeline.training import cache
from anony_pipeline.training.objective import crop_plates
from anony_pipeline_tests.training import tiny


def test_crops_are_those_of_the_photographs(data, tiny_root):
    coco = tiny.coco.load(tiny_root / "unified_train.json")
    regions = coco.regions_by_image()
    for kind, samples in data.samples.items():
        for index, row in enumerate(samples.rows[:3]):
            image = next(image for image in coco.images if image["id"] == row.image_id)
            size_hw = samples.masks.shape[1:]
            expected = crops.cut(images.read(coco.image_file(image)), row.window, size_hw)
            assert np.array_equal(samples.originals[index], expected)
            assert np.array_equal(samples.masks[index], masks.crop_mask(regions[row.image_id], row.window, size_hw))
            assert kind in Kind


def test_every_region_in_a_crop_is_masked(data):
    for samples in data.samples.values():
        for index, row in enumerate(samples.rows):
            for x_min, y_min, x_max, y_max in row.neighbors_xyxy:
                part = samples.masks[index, int(y_min) : int(np.ceil(y_max)), int(x_min) : int(np.ceil(x_max))]
                assert part.all()


def test_a_crop_knows_which_of_its_regions_are_crowds(data, tiny_root):
    coco = tiny.coco.load(tiny_root / "unified_train.json")
    row = data.samples[Kind.FACE].rows[0]
    image = next(image for image in coco.images if image["id"] == row.image_id)
    own = next(annotation for annotation in coco.annotations if annotation["id"] == row.annotation_id)
    annotations = [{**own, "id": 101, "iscrowd": 1}, own, {**own, "id": 102, "iscrowd": 0}]
    regions = [Region.from_coco(annotation) for annotation in annotations]
    size_hw, crowds = data.samples[Kind.FACE].masks.shape[1:], cache.crowds_of(annotations)
    known = cache.sample_row(regions[1], regions, image, own, row.window, size_hw, None, crowds)
    assert known.iscrowd == (True, False, False)
    assert len(row.iscrowd) == len(row.labels)


def test_targets_equal_the_crop_outside_the_mask(data):
    for samples in data.samples.values():
        outside = np.array(samples.masks) == 0
        assert np.array_equal(samples.targets[outside], samples.originals[outside])


def test_a_second_opening_reads_the_same_cache_and_makes_nothing(data, config, tiny_root, monkeypatch, tiny_training):
    del tiny_training
    monkeypatch.setattr(cache, "_write", lambda *_: pytest.fail("the cache was made again"))
    from anony_pipeline.training import loop

    again, _ = loop.prepare(config(), tiny.coco.load(tiny_root / "unified_train.json"))
    assert again.key == data.key
    assert again.samples[Kind.FACE].rows == data.samples[Kind.FACE].rows
    assert again.detector.rows == data.detector.rows


def test_a_killed_build_goes_on_where_it_was_and_ends_as_one_that_was_not(
    data, config, tiny_root, tmp_path, monkeypatch
):
    settings = config(paths__cache=str(tmp_path))
    coco = tiny.coco.load(tiny_root / "unified_train.json")
    records = faces.make_face_targets(settings, coco, recognizer=tiny.ColorRecognizer()).records
    records += plates.make_plate_targets(settings, coco, ["FR"])["FR"].records
    monkeypatch.setattr(cache, "MARKED_TOGETHER", 2)
    written, write = [], cache._write_image

    def killed(job):
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(job.index)
        return write(job)

    monkeypatch.setattr(cache, "_write_image", killed)
    with pytest.raises(KeyboardInterrupt):
        cache.build(settings, coco, records)
    (folder,) = (path for path in (tmp_path / "samples").iterdir() if path.is_dir())
    assert not (folder / "manifest.json").exists()
    with (folder / "done.jsonl").open("a") as file:
        file.write('{"crops": [[')  # a line that was being written
    monkeypatch.setattr(cache, "_write_image", lambda job: written.append(job.index) or write(job))
    resumed = cache.build(settings, coco, records)
    assert written == [0, 1, 2, 2, 3, 4, 5]
    assert_same(resumed, data)
    assert {path.name for path in folder.iterdir()} == {path.name for path in made(data, config).iterdir()}


def made(data, config):
    return cache.Path(config().paths.cache) / "samples" / data.key


def assert_same(one, other):
    assert one.key == other.key
    assert one.detector.rows == other.detector.rows
    np.testing.assert_array_equal(one.detector.originals, other.detector.originals)
    np.testing.assert_array_equal(one.detector.filled, other.detector.filled)
    for kind, samples in other.samples.items():
        assert one.samples[kind].rows == samples.rows
        for name in ("originals", "targets", "masks", *(["anchors"] if kind is Kind.PLATE else [])):
            np.testing.assert_array_equal(getattr(one.samples[kind], name), getattr(samples, name))


@pytest.mark.slow
def test_several_processes_write_the_same_cache_as_one(data, config, tiny_root, tmp_path, monkeypatch):
    monkeypatch.setattr(parallel, "WORTH_IT", 1)
    monkeypatch.setattr(parallel, "cores", lambda: 2)
    monkeypatch.setattr(parallel, "AT_ONCE", 1)
    settings = config(paths__cache=str(tmp_path))
    coco = tiny.coco.load(tiny_root / "unified_train.json")
    records = faces.make_face_targets(settings, coco, recognizer=tiny.ColorRecognizer()).records
    records += plates.make_plate_targets(settings, coco, ["FR"])["FR"].records
    together = cache.build(settings, coco, records)
    assert_same(together, data)


def test_the_cache_is_private(data, config):
    folder = next((cache.Path(config().paths.cache) / "samples").glob(f"{data.key}"))
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700


def test_an_empty_training_set_is_refused(config, tiny_root):
    coco = tiny.coco.load(tiny_root / "unified_train.json")
    with pytest.raises(DatasetError, match="nothing to train on"):
        cache.build(config(), coco, [])


def test_filled_images_differ_in_regions_alone(data):
    for original, filled, row in zip(data.detector.originals, data.detector.filled, data.detector.rows, strict=True):
        changed = (np.asarray(original) != np.asarray(filled)).any(axis=2)
        regions = [Region(Kind.FACE, tuple(box)) for box in row.boxes_xyxy]
        # Resizing spreads a region's edge by a pixel or two.
        allowed = masks.region_mask(regions, changed.shape, growth=1.5) > 0
        assert changed.any()
        assert not (changed & ~allowed).any()


def test_small_boxes_are_crowds_for_the_detector():
    records = [tiny.annotation(1, 1, 1, (0, 0, 40, 40)), tiny.annotation(2, 1, 1, (50, 50, 4, 4))]
    _, row = cache.letterboxed(np.zeros((200, 400, 3), np.uint8), {"id": 1}, records, edge=100)
    assert row.scale == 0.25
    assert row.size_hw == (50, 100)
    assert row.iscrowd == (False, True)
    assert row.boxes_xyxy[0] == (0, 0, 10, 10)


@pytest.mark.parametrize("landmarks", [((10, 14), (22, 14), (16, 20), (11, 26), (21, 25)), None], ids=["points", "box"])
def test_the_losss_view_of_a_face_is_the_judges(landmarks):
    rng = np.random.default_rng(0)
    crop = cache.cv2.GaussianBlur(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8), (0, 0), 2)
    region = Region(Kind.FACE, (7.5, 8, 24, 28), landmarks=landmarks)
    theta = torch.tensor([cache.theta_of(region, (32, 32))], dtype=torch.float32)
    seen = images.to_images(identity.crop_faces(images.to_tensor([crop]), theta, 112))[0]
    assert np.abs(seen.astype(int) - align(crop, region, 112)).max() <= 2


@pytest.mark.parametrize("quad", [((20, 9), (70, 6), (71, 20), (19, 24)), None], ids=["quad", "box"])
def test_the_losss_view_of_a_plate_is_the_judges(quad):
    rng = np.random.default_rng(0)
    crop = cache.cv2.GaussianBlur(rng.integers(0, 256, (32, 96, 3), dtype=np.uint8), (0, 0), 2)
    region = Region(Kind.PLATE, (19, 6, 71, 24), quad=quad)
    matrix = torch.tensor([cache.reading_of(region, (32, 96))], dtype=torch.float32)
    seen = images.to_images(crop_plates(images.to_tensor([crop]), matrix, INPUT_HW))[0]
    judged = plate_crop(crop, region).astype(int)
    # With a box the judge's margin counts from the box, not from the crop: a difference of a third of a percent.
    assert np.abs(seen.astype(int) - judged).mean() <= (1 if quad else 3)


def test_a_disk_without_room_is_refused_before_it_is_filled(config, tiny_root, tiny_training, monkeypatch):
    from anony_pipeline.training import loop

    del tiny_training
    monkeypatch.setattr(cache.disk.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10}))
    settings = config(training__max_images=3)
    with pytest.raises(DatasetError, match=r"no room for the training samples[\s\S]*training\.max_images"):
        loop.prepare(settings, tiny.coco.load(tiny_root / "unified_train.json"))


def test_fewer_images_are_prepared_where_that_was_asked(config, tiny_root, tiny_training):
    from anony_pipeline.training import loop

    del tiny_training
    data, _ = loop.prepare(config(training__max_images=4), tiny.coco.load(tiny_root / "unified_train.json"))
    assert len(data.detector) == 4
    assert {row.image_id for row in data.samples[Kind.FACE].rows} == {row.image_id for row in data.detector.rows}


def test_regions_that_the_data_set_marks_as_crowds_are_crowds_for_the_detector():
    records = [tiny.annotation(1, 1, 1, (0, 0, 40, 40)), tiny.annotation(2, 1, 1, (50, 50, 40, 40)) | {"iscrowd": 1}]
    _, row = cache.letterboxed(np.zeros((200, 400, 3), np.uint8), {"id": 1}, records, edge=100)
    assert row.iscrowd == (False, True)
