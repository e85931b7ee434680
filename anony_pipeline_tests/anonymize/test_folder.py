import errno
import json
import os
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from anony_pipeline.anonymize import folder, marking
from anony_pipeline.anonymize.anonymizer import Anonymized, Anonymizer
from anony_pipeline.anonymize.ledger import LedgerRow
from anony_pipeline.anonymize.loading import Checkpoint, open_checkpoint
from anony_pipeline.anonymize.policy import Policy
from anony_pipeline.anonymize.verifying import Verifier
from anony_pipeline.errors import CheckpointError, DatasetError, MediaError, PrivacyError, WeightsError
from anony_pipeline.storage import atomic
from anony_pipeline.structures.regions import Kind, Region

IMAGE = np.random.default_rng(0).integers(0, 255, (60, 80, 3)).astype(np.uint8)


@pytest.fixture
def opened(monkeypatch):
    """A checkpoint whose detector finds one face in each image, and whose policy is solid; lists what was loaded."""
    loaded = []

    def load(checkpoint, device, *, profile=None, face_detector=None):
        loaded.append(checkpoint)
        detect = lambda images, threshold: [[Region(Kind.FACE, (10, 10, 30, 40), score=0.8)] for _ in images]  # noqa: E731
        return Anonymizer(None, Verifier(None, None, 0.4), detect=detect, policy=Policy(treatment="solid"))

    monkeypatch.setattr(
        folder, "open_checkpoint", lambda path: Checkpoint(path, SimpleNamespace(profile="realistic"), {}, "c" * 64)
    )
    monkeypatch.setattr(folder, "load_anonymizer", load)
    return loaded


@pytest.fixture
def source(tmp_path):
    root = tmp_path / "in"
    for name in ("a.png", "deep/b.png", "deep/er/c.jpg"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), IMAGE)
    (root / "notes.txt").write_text("no image")
    return root


def test_the_tree_is_mirrored_with_ledger_labels_and_report(opened, source, tmp_path):
    report = folder.anonymize_folder([source], tmp_path / "ckpt", tmp_path / "out")
    assert report.written == ["a.png", "deep/b.png", "deep/er/c.jpg"]
    assert (report.exit_status, dict(report.regions)) == (0, {"face solid": 3})
    out = cv2.imread(str(tmp_path / "out" / "deep" / "b.png"))
    changed = (out != IMAGE).any(axis=2)
    assert changed[10:40, 10:30].mean() > 0.99
    assert not changed[:, 40:].any()
    found = COCO(str(tmp_path / "out" / "annotations.json"))
    assert len(found.getAnnIds()) == 3
    assert found.loadAnns(1)[0]["bbox"] == [10, 10, 20, 30]
    assert json.loads((tmp_path / "out" / "report.json").read_text())["exit_status"] == 0
    assert len((tmp_path / "out" / "ledger.jsonl").read_text().splitlines()) == 1 + 2 * 3


def test_a_second_run_finds_everything_finished(opened, source, tmp_path):
    folder.anonymize_folder([source], tmp_path / "ckpt", tmp_path / "out")
    before = (tmp_path / "out" / "ledger.jsonl").read_bytes()
    again = folder.anonymize_folder([source], tmp_path / "ckpt", tmp_path / "out")
    assert (again.written, len(again.skipped)) == ([], 3)
    assert (tmp_path / "out" / "ledger.jsonl").read_bytes() == before
    assert len(opened) == 1


def test_an_image_that_took_the_name_of_a_finished_one_is_anonymized_too(opened, source, tmp_path):
    folder.anonymize_folder([source], tmp_path / "ckpt", tmp_path / "out")
    cv2.imwrite(str(source / "a.png"), 255 - IMAGE)
    again = folder.anonymize_folder([source], tmp_path / "ckpt", tmp_path / "out")
    assert again.written == ["a.png"]
    assert (cv2.imread(str(tmp_path / "out" / "a.png"))[:, 40:] == 255 - IMAGE[:, 40:]).all()


def test_another_face_detector_than_the_earlier_runs_is_refused(opened, source, tmp_path):
    arguments = [source], tmp_path / "ckpt", tmp_path / "out"
    folder.anonymize_folder(*arguments)
    (tmp_path / "yunet.onnx").write_bytes(b"weights")
    with pytest.raises(PrivacyError, match="face_detector"):
        folder.anonymize_folder(*arguments, face_detector=tmp_path / "yunet.onnx")
    with pytest.raises(WeightsError, match="missing"):
        folder.anonymize_folder(*arguments, face_detector=tmp_path / "nowhere.onnx")


def test_other_regions_than_those_of_the_earlier_run_are_refused(opened, source, tmp_path):
    boxes, _ = boxes_file(tmp_path)
    folder.anonymize_folder([source], tmp_path / "ckpt", tmp_path / "out", boxes=boxes)
    boxes.write_text(boxes.read_text().replace("[40, 20,", "[41, 20,"))
    with pytest.raises(PrivacyError, match="anonymized otherwise"):
        folder.anonymize_folder([source], tmp_path / "ckpt", tmp_path / "out", boxes=boxes)


def test_files_that_are_no_images_are_counted(opened, source, tmp_path):
    (source / "deep" / "drive.MP4").write_bytes(b"a video")
    report = folder.anonymize_folder([source], tmp_path / "ckpt", tmp_path / "out")
    assert report.other_files == {".mp4": 1, ".txt": 1}
    assert not (tmp_path / "out" / "deep" / "drive.MP4").exists()


def test_a_broken_off_run_is_continued(opened, source, tmp_path):
    folder.anonymize_folder([source], tmp_path / "ckpt", tmp_path / "out")
    whole = (tmp_path / "out" / "annotations.json").read_bytes()
    ledger = tmp_path / "out" / "ledger.jsonl"
    lines = ledger.read_text().splitlines(keepends=True)
    ledger.write_text("".join(lines[:4]) + '{"image": "deep/er')
    (tmp_path / "out" / "a.png").unlink()
    report = folder.anonymize_folder([source], tmp_path / "ckpt", tmp_path / "out")
    assert sorted(report.written) == ["a.png", "deep/b.png", "deep/er/c.jpg"]
    assert sorted(ledger.read_text().splitlines()) == sorted(line.strip() for line in lines)
    assert (tmp_path / "out" / "annotations.json").read_bytes() == whole


def test_the_report_counts_what_earlier_runs_did_too(opened, tmp_path, monkeypatch):
    source = tmp_path / "in"
    source.mkdir()
    for number in range(8):
        cv2.imwrite(str(source / f"{number}.png"), IMAGE)
    finish, calls = folder._finish, []

    def killed(*arguments):
        calls.append(arguments)
        if len(calls) == 7:
            raise KeyboardInterrupt
        return finish(*arguments)

    monkeypatch.setattr(folder, "_finish", killed)
    arguments = [source], tmp_path / "ckpt", tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        folder.anonymize_folder(*arguments)
    for skipped in (6, 8):
        report = folder.anonymize_folder(*arguments)
        assert len(report.skipped) == skipped
        assert (dict(report.regions), dict(report.reasons)) == ({"face solid": 8}, {"by policy": 8})
        written = json.loads((tmp_path / "out" / "report.json").read_text())
        assert (written["regions"], written["reasons"]) == ({"face solid": 8}, {"by policy": 8})


def test_a_name_that_is_not_utf_8_is_a_problem_of_that_file_alone(opened, source, tmp_path):
    for name in (b"caf\xe9.png", b"caf\xe9/a.png", b"notes.\xe9"):
        path = Path(os.fsdecode(os.fsencode(source) + b"/" + name))
        path.parent.mkdir(exist_ok=True)
        path.write_bytes((source / "a.png").read_bytes())
    report = folder.anonymize_folder([source], tmp_path / "ckpt", tmp_path / "out")
    assert len(report.written) == 3
    assert sorted(problem.image for problem in report.problems) == ["caf\\xe9.png", "caf\\xe9/a.png"]
    assert {"not UTF-8" in problem.reason for problem in report.problems} == {True}
    assert report.other_files == {".txt": 1, ".\\xe9": 1}
    assert json.loads((tmp_path / "out" / "report.json").read_text())["exit_status"] == 1


def test_an_output_folder_whose_name_is_not_utf_8_is_written(opened, source, tmp_path):
    output = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    assert folder.anonymize_folder([source], tmp_path / "ckpt", output).exit_status == 0
    assert len(json.loads((output / "annotations.json").read_text())["images"]) == 3


@pytest.mark.parametrize("name", ["deep/b.png", "report.json"])
def test_files_of_somebody_else_are_never_replaced(opened, source, tmp_path, name):
    mine = tmp_path / "out" / name
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    for dry_run in (True, False):
        with pytest.raises(MediaError, match=rf"no run made them(.|\n)*{name}"):
            folder.anonymize_folder([source], tmp_path / "ckpt", tmp_path / "out", dry_run=dry_run)
    assert mine.read_text() == "mine"
    assert not opened


def test_a_file_of_an_unknown_format_is_a_problem_of_that_file_alone(opened, source, tmp_path):
    (source / "b.jfif").write_bytes((source / "deep/er/c.jpg").read_bytes())
    given = [source / "a.png", source / "b.jfif"]
    report = folder.anonymize_folder(given, tmp_path / "ckpt", tmp_path / "out")
    assert (report.written, [problem.image for problem in report.problems]) == (["a.png"], ["b.jfif"])
    assert "unknown image format" in report.problems[0].reason
    with pytest.raises(MediaError, match=r"no image to anonymize(.|\n)*b\.jfif: unknown image format"):
        folder.anonymize_folder(given[1:], tmp_path / "ckpt", tmp_path / "other")


def test_an_image_that_can_t_be_written_is_a_problem_of_that_image_alone(opened, source, tmp_path):
    wide = cv2.imencode(".png", np.zeros((50, 70_000, 3), np.uint8))[1].tobytes()
    (source / "a_wide.jpg").write_bytes(wide)
    report = folder.anonymize_folder([source], tmp_path / "ckpt", tmp_path / "out")
    assert [problem.image for problem in report.problems] == ["a_wide.jpg"]
    assert "can't be encoded" in report.problems[0].reason
    assert report.written == ["a.png", "deep/b.png", "deep/er/c.jpg"]
    assert dict(report.regions) == {"face solid": 3}


def test_a_full_disk_ends_the_run(opened, source, tmp_path, monkeypatch):
    write = atomic.write_bytes

    def full(path, data, mode=None):
        if path.name == "b.png":
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, data, mode)

    monkeypatch.setattr(atomic, "write_bytes", full)
    with pytest.raises(MediaError, match=r"can't be written(.|\n)*No space left"):
        folder.anonymize_folder([source], tmp_path / "ckpt", tmp_path / "out")
    monkeypatch.undo()
    assert '"a.png"' in (tmp_path / "out" / "ledger.jsonl").read_text()


def test_a_broken_image_is_named_and_nothing_is_written_for_it(opened, source, tmp_path):
    (source / "bad.jpg").write_bytes((source / "deep/er/c.jpg").read_bytes()[:300])
    report = folder.anonymize_folder([source], tmp_path / "ckpt", tmp_path / "out")
    assert report.exit_status == 1
    assert [(p.image, p.reason) for p in report.problems] == [("bad.jpg", "the JPEG file is truncated")]
    assert not (tmp_path / "out" / "bad.jpg").exists()
    assert len(report.written) == 3


def test_a_dry_run_writes_nothing(opened, source, tmp_path):
    report = folder.anonymize_folder([source], tmp_path / "ckpt", tmp_path / "out", dry_run=True)
    assert report.written == ["a.png", "deep/b.png", "deep/er/c.jpg"]
    assert not (tmp_path / "out").exists()
    assert opened == []


@pytest.mark.parametrize("output", ["in", "in/anonymized", "."], ids=["same", "inside", "around"])
def test_an_output_where_the_originals_lie_is_refused(opened, source, tmp_path, output):
    with pytest.raises(PrivacyError, match="where the originals lie"):
        folder.anonymize_folder([source], tmp_path / "ckpt", tmp_path / output)


def test_the_same_folder_by_another_name_is_refused_too(opened, source, tmp_path):
    (tmp_path / "link").symlink_to(source)
    with pytest.raises(PrivacyError, match="where the originals lie"):
        folder.anonymize_folder([source], tmp_path / "ckpt", tmp_path / "link")
    with pytest.raises(PrivacyError, match="where the originals lie"):
        folder.anonymize_folder([source / "a.png"], tmp_path / "ckpt", source)


def test_an_output_of_another_checkpoint_is_not_continued(opened, source, tmp_path, monkeypatch):
    folder.anonymize_folder([source], tmp_path / "ckpt", tmp_path / "out")
    monkeypatch.setattr(
        folder, "open_checkpoint", lambda path: Checkpoint(path, SimpleNamespace(profile="realistic"), {}, "d" * 64)
    )
    with pytest.raises(PrivacyError, match="anonymized otherwise"):
        folder.anonymize_folder([source], tmp_path / "ckpt", tmp_path / "out")


def test_places_and_cameras_in_the_metadata_do_not_come_out(opened, tmp_path):
    exif = Image.Exif()
    exif[0x010F] = "Camera"
    exif.get_ifd(0x8825)[1] = "N"
    source = tmp_path / "in" / "gps.jpg"
    source.parent.mkdir()
    Image.fromarray(IMAGE).save(source, exif=exif)
    assert Image.open(source).getexif()
    folder.anonymize_folder([source], tmp_path / "ckpt", tmp_path / "out")
    assert not Image.open(tmp_path / "out" / "gps.jpg").getexif()


def boxes_file(tmp_path, **changes):
    document = {
        "info": {"year": 2024},
        "images": [{"id": 7, "file_name": "deep/b.png", "width": 80, "height": 60} | changes],
        "annotations": [{"id": 3, "image_id": 7, "category_id": 5, "bbox": [40, 20, 20, 10], "extra": "kept"}],
        "categories": [{"id": 5, "name": "license_plate"}],
    }
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps(document))
    return path, document


def test_given_boxes_are_replaced_and_given_back_unchanged(opened, source, tmp_path):
    path, document = boxes_file(tmp_path)
    report = folder.anonymize_folder([source], tmp_path / "ckpt", tmp_path / "out", boxes=path)
    assert report.written == ["deep/b.png"]
    assert [p.image for p in report.problems] == ["a.png", "deep/er/c.jpg"]
    assert report.exit_status == 1
    assert json.loads((tmp_path / "out" / "annotations.json").read_text()) == document
    changed = (cv2.imread(str(tmp_path / "out" / "deep/b.png")) != IMAGE).any(axis=2)
    assert changed[20:30, 40:60].mean() > 0.99
    assert not changed[:, :30].any()


def test_boxes_for_an_image_of_another_size_are_refused(opened, source, tmp_path):
    path, _ = boxes_file(tmp_path, width=160)
    report = folder.anonymize_folder([source / "deep"], tmp_path / "ckpt", tmp_path / "out", boxes=path)
    assert "another size" in report.problems[0].reason


@pytest.mark.parametrize("text", ["", "[]", '{"images": []}'], ids=["empty", "list", "incomplete"])
def test_a_boxes_file_that_is_no_coco_is_refused(opened, source, tmp_path, text):
    path = tmp_path / "boxes.json"
    path.write_text(text)
    with pytest.raises(DatasetError, match="boxes can't be read"):
        folder.anonymize_folder([source], tmp_path / "ckpt", tmp_path / "out", boxes=path)


def test_two_folders_keep_their_names_and_equal_names_are_refused(opened, source, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    cv2.imwrite(str(other / "a.png"), IMAGE)
    report = folder.anonymize_folder([source, other], tmp_path / "ckpt", tmp_path / "out")
    assert "in/a.png" in report.written
    assert "other/a.png" in report.written
    with pytest.raises(MediaError, match="two images would get one name"):
        folder.anonymize_folder([source / "a.png", other / "a.png"], tmp_path / "ckpt", tmp_path / "out2")


def test_nothing_to_do_is_an_error(opened, tmp_path):
    (tmp_path / "in").mkdir()
    with pytest.raises(MediaError, match="no image to anonymize"):
        folder.anonymize_folder([tmp_path / "in"], tmp_path / "ckpt", tmp_path / "out")
    with pytest.raises(MediaError, match="not there"):
        folder.anonymize_folder([tmp_path / "gone.png"], tmp_path / "ckpt", tmp_path / "out")


def test_a_folder_without_a_manifest_is_no_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        open_checkpoint(tmp_path / "step_000001")
    (tmp_path / "step_000001").mkdir()
    with pytest.raises(CheckpointError, match="no manifest"):
        open_checkpoint(tmp_path / "step_000001")
    (tmp_path / "step_000001" / "manifest.json").write_text('{"format": "other", "files": {}}')
    with pytest.raises(CheckpointError, match="no checkpoint of this version"):
        open_checkpoint(tmp_path / "step_000001")


def test_the_mark_of_what_was_generated_goes_where_a_format_has_a_place_for_it(source, tmp_path, monkeypatch):
    def anonymize_batch(jobs):
        row = LedgerRow.begun(0, Region(Kind.FACE, (10, 10, 30, 40)), (10, 10, 30, 40))
        done = {"a.png": "generated", "deep/b.png": "solid", "deep/er/c.jpg": "generated", "d.bmp": "generated"}
        return [Anonymized(job.image_rgb, [row.changed(method=done[job.name])]) for job in jobs]

    cv2.imwrite(str(source / "d.bmp"), IMAGE)
    monkeypatch.setattr(
        folder, "open_checkpoint", lambda path: Checkpoint(path, SimpleNamespace(profile="solid"), {}, "c" * 64)
    )
    monkeypatch.setattr(folder, "load_anonymizer", lambda *_, **__: SimpleNamespace(anonymize_batch=anonymize_batch))
    report = folder.anonymize_folder([source], tmp_path / "ckpt", tmp_path / "out")
    marked = {path.name: marking.SOURCE_TYPE.encode() in path.read_bytes() for path in (tmp_path / "out").rglob("*.*g")}
    assert marked == {"a.png": True, "b.png": False, "c.jpg": True}
    assert report.unmarked == ["d.bmp"]
    assert folder.anonymize_folder([source], tmp_path / "ckpt", tmp_path / "out").unmarked == ["d.bmp"]
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "out" / "a.png")), IMAGE)
    assert "DigitalSourceType" in Image.open(tmp_path / "out" / "deep" / "er" / "c.jpg").info["xmp"].decode()


def test_another_profile_does_not_go_on_in_the_same_folder(opened, source, tmp_path):
    folder.anonymize_folder([source], tmp_path / "ckpt", tmp_path / "out", profile="solid")
    with pytest.raises(PrivacyError, match="anonymized otherwise"):
        folder.anonymize_folder([source], tmp_path / "ckpt", tmp_path / "out", profile="blur")


def renamed(tmp_path, *names):
    path, document = boxes_file(tmp_path)
    document["categories"] = [{"id": 5 + number, "name": name} for number, name in enumerate(names)]
    path.write_text(json.dumps(document))
    return path


@pytest.mark.parametrize("name", ["plate", "Licence Plate", "number-plate"])
def test_other_names_of_the_categories_are_understood(opened, source, tmp_path, name):
    folder.anonymize_folder([source], tmp_path / "ckpt", tmp_path / "out", boxes=renamed(tmp_path, name, "car"))
    changed = (cv2.imread(str(tmp_path / "out" / "deep/b.png")) != IMAGE).any(axis=2)
    assert changed[20:30, 40:60].mean() > 0.99


@pytest.mark.parametrize("names", [("vehicle plate", "face"), ("car", "person")], ids=["unclear", "neither"])
def test_categories_that_would_silently_be_left_as_they_are_are_refused(opened, source, tmp_path, names):
    with pytest.raises(DatasetError, match="not clear which categories"):
        folder.anonymize_folder([source], tmp_path / "ckpt", tmp_path / "out", boxes=renamed(tmp_path, *names))


def test_labels_come_back_without_who_it_was(opened, source, tmp_path):
    path, document = boxes_file(tmp_path)
    document["annotations"][0] |= {"identity": "plate-1", "serial": "AB-123-CD"}
    path.write_text(json.dumps(document))
    folder.anonymize_folder([source], tmp_path / "ckpt", tmp_path / "out", boxes=path)
    (kept,) = json.loads((tmp_path / "out" / "annotations.json").read_text())["annotations"]
    assert kept["extra"] == "kept"
    assert not {"identity", "serial"} & set(kept)


def test_a_box_beyond_its_image_is_a_problem_of_that_image_alone(opened, source, tmp_path):
    path, document = boxes_file(tmp_path)
    document["images"] = [{"id": 7, "file_name": "deep/b.png"}, {"id": 8, "file_name": "a.png"}]
    document["annotations"].append({"id": 4, "image_id": 8, "category_id": 5, "bbox": [80, 20, 20, 30]})
    path.write_text(json.dumps(document))
    report = folder.anonymize_folder([source], tmp_path / "ckpt", tmp_path / "out", boxes=path)
    assert report.written == ["deep/b.png"]
    assert ("a.png", "a region covers no pixel of its image") in [(p.image, p.reason) for p in report.problems]
    assert not (tmp_path / "out" / "a.png").exists()


def test_boxes_that_can_t_be_right_are_refused_before_anything_is_written(opened, source, tmp_path):
    path, document = boxes_file(tmp_path)
    document["annotations"][0]["bbox"] = [40, 20, -20, -10]
    path.write_text(json.dumps(document))
    with pytest.raises(DatasetError, match=r"annotations\[0\]: bbox must be"):
        folder.anonymize_folder([source], tmp_path / "ckpt", tmp_path / "out", boxes=path)
    assert not (tmp_path / "out").exists()
    assert opened == []


def test_an_image_is_not_covered_at_the_boxes_of_another_camera(opened, tmp_path):
    source = tmp_path / "in"
    for name in ("cam1/0001.png", "cam2/0001.png"):
        (source / name).parent.mkdir(parents=True)
        cv2.imwrite(str(source / name), IMAGE)
    path, _ = boxes_file(tmp_path, file_name="cam1/0001.png")
    arguments = tmp_path / "ckpt", tmp_path / "out"
    report = folder.anonymize_folder([source], *arguments, boxes=path)
    assert report.written == ["cam1/0001.png"]
    assert [(p.image, p.reason) for p in report.problems] == [
        ("cam2/0001.png", "the boxes file does not know the image")
    ]
    assert not (tmp_path / "out" / "cam2").exists()
    assert folder.anonymize_folder([source], *arguments, boxes=path).exit_status == 1


def test_an_image_whose_boxes_may_be_those_of_another_one_is_no_longer_finished(opened, tmp_path):
    for name in ("in/cam1/0001.png", "in/cam2/0001.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        cv2.imwrite(str(tmp_path / name), IMAGE)
    path, _ = boxes_file(tmp_path, file_name="0001.png")
    arguments = tmp_path / "ckpt", tmp_path / "out"
    (tmp_path / "in/cam2/0001.png").rename(tmp_path / "later.png")
    assert folder.anonymize_folder([tmp_path / "in"], *arguments, boxes=path).written == ["cam1/0001.png"]
    (tmp_path / "later.png").rename(tmp_path / "in/cam2/0001.png")
    report = folder.anonymize_folder([tmp_path / "in"], *arguments, boxes=path)
    assert (report.written, report.skipped) == ([], [])
    assert [problem.image for problem in report.problems] == ["cam1/0001.png", "cam2/0001.png"]
