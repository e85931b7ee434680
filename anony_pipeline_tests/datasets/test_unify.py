"""The unified set: what goes in, where it goes, what is counted, and that libraries load it."""

import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from upath import UPath

from anony_pipeline.config.schema import Config, Paths, Splits
from anony_pipeline.datasets import coco, unify
from anony_pipeline.errors import ConfigError, DatasetError
from anony_pipeline_tests.datasets import layouts
from anony_pipeline_tests.references import widerface_reference

FLAGS = layouts.ATTRIBUTES
GOOD = (10, 10, 12, 8, *FLAGS)
PLATE = "1 0.5 0.5 0.1 0.05\n"
ANNOTATION = "wider_face_split/wider_face_val_bbx_gt.txt"


def both(folder):
    """A small data set of both layouts: three WIDERFace images in two splits, thirty frames in three groups."""
    root = folder / "raw"
    layouts.write_widerface(root / "widerface", [("0--Parade/1.jpg", [GOOD, GOOD])], "train")
    layouts.write_widerface(root / "widerface", [("0--Parade/2.jpg", [GOOD]), ("1--Handshaking/3.jpg", [])], "val")
    frames = {f"{group}/{i}": PLATE for group in ("fisheye", "paris", "stuttgart") for i in range(10)}
    layouts.write_pp4av(root / "pp4av", frames)
    return layouts.data(
        layouts.widerface_source(root / "widerface"),
        layouts.pp4av_source(root / "pp4av", plate_styles={"paris": "FR", "stuttgart": "DE"}),
        splits=Splits(block_frames=10, val_every=3, border_frames=2),
    )


def opened(folder):
    return {split: coco.load(folder / f"unified_{split}.json") for split in ("train", "val")}


def problems(report, scope):
    return [(problem.where, problem.what) for problem in report.problems if problem.scope == scope]


def test_both_sources_come_together_with_their_groups_styles_and_unlabeled_kinds(tmp_path):
    report = unify.unify(both(tmp_path), tmp_path / "unified")
    sets = opened(tmp_path / "unified")
    assert (report.images, report.boxes, report.images_without_boxes, report.clipped) == (33, 33, 1, 0)
    assert report.by_source["pp4av"]["val"].images == 10
    assert report.by_source["widerface"]["train"] == unify.Counts(images=1, boxes=2, faces=2)
    shown = {
        (image["source"], image["group"], image["plate_style"], tuple(image["not_exhaustive_category_ids"]))
        for unified in sets.values()
        for image in unified.images
    }
    assert shown == {
        ("widerface", "0--Parade", None, (2,)),
        ("widerface", "1--Handshaking", None, (2,)),
        ("pp4av", "paris", "FR", ()),
        ("pp4av", "stuttgart", "DE", ()),
        ("pp4av", "fisheye", None, ()),
    }
    assert {image["group"] for image in sets["val"].images if image["source"] == "pp4av"} == {"stuttgart"}
    face = sets["train"].annotations[0]
    assert face["attributes"] == dict(
        zip(("blur", "expression", "illumination", "invalid", "occlusion", "pose"), FLAGS, strict=True)
    )
    assert (face["bbox"], face["area"], face["iscrowd"]) == ([10, 10, 12, 8], 96, 0)
    plate = sets["val"].annotations[-1]
    assert plate["bbox"] == [90, 47.5, 20, 5]


def test_ids_are_unique_over_both_files_and_start_at_one(tmp_path):
    unify.unify(both(tmp_path), tmp_path / "unified")
    sets = opened(tmp_path / "unified").values()
    for name in ("images", "annotations"):
        ids = [record["id"] for unified in sets for record in getattr(unified, name)]
        assert sorted(ids) == list(range(1, 34))


def test_every_image_file_is_found_after_both_folders_moved_together(tmp_path):
    (tmp_path / "here").mkdir()
    unify.unify(both(tmp_path / "here"), tmp_path / "here/unified")
    (tmp_path / "here").rename(tmp_path / "there")
    for unified in opened(tmp_path / "there/unified").values():
        assert unified.images
        assert all(unified.image_file(image).is_file() for image in unified.images)


def test_the_same_input_gives_the_same_bytes_wherever_it_lies(tmp_path):
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        unify.unify(both(tmp_path / place), tmp_path / place / "unified")
    assert layouts.below(tmp_path / "a/unified") == layouts.below(tmp_path / "b/unified")


def test_pycocotools_and_faster_coco_eval_load_it_and_find_it_perfect(tmp_path):
    import faster_coco_eval
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    unify.unify(both(tmp_path), tmp_path / "unified")
    for without in (False, True):
        if without:
            root = tmp_path / "raw/widerface"
            unify.unify(layouts.data(layouts.widerface_source(root)), tmp_path / "unified", without_images=True)
        path = str(tmp_path / "unified/unified_val.json")
        for read, judge in ((COCO, COCOeval), (faster_coco_eval.COCO, faster_coco_eval.COCOeval_faster)):
            with contextlib.redirect_stdout(io.StringIO()):
                truth = read(path)
                found = [{**truth.anns[i], "score": 1.0} for i in truth.anns]
                evaluation = judge(truth, truth.loadRes(found), "bbox")
                evaluation.evaluate()
                evaluation.accumulate()
                evaluation.summarize()
            assert evaluation.stats[0] == pytest.approx(1.0)


BOX = st.tuples(st.integers(-60, 120), st.integers(-60, 120), st.integers(-2, 2000), st.integers(-2, 2000))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(boxes=st.lists(BOX, max_size=8))
def test_boxes_are_clipped_dropped_and_counted_as_a_slow_look_at_every_pixel_says(tmp_path, boxes):
    width, height = 40, 30
    source = layouts.write_widerface(tmp_path, [("a/1.jpg", [(*box, *FLAGS) for box in boxes])], size=(width, height))
    report = unify.unify(layouts.data(source), tmp_path / "unified")
    expected, clipped = [], 0
    for x, y, w, h in boxes:
        columns, rows = ([i for i in range(a, a + b) if 0 <= i < end] for a, b, end in ((x, w, width), (y, h, height)))
        if columns and rows:
            expected.append([columns[0], rows[0], len(columns), len(rows)])
            clipped += (len(columns), len(rows)) != (w, h)
    assert [annotation["bbox"] for annotation in opened(tmp_path / "unified")["val"].annotations] == expected
    assert (report.boxes, report.dropped, report.clipped) == (len(expected), len(boxes) - len(expected), clipped)


def test_without_images_sizes_are_left_out_and_clipping_is_said_not_to_be_done(tmp_path):
    source = layouts.widerface_source(tmp_path)
    rows = [(-5, 10, 9999, 20, *FLAGS), (1, 1, 0, 5, *FLAGS), (1, 1, 5, 5, 0, 0, 0, 1, 0, 0)]
    layouts.write_annotation(tmp_path, layouts.widerface_text([("a/1.jpg", rows), ("a/2.jpg", [])]).encode())
    report = unify.unify(layouts.data(source), tmp_path / "unified", without_images=True)
    unified = opened(tmp_path / "unified")["val"]
    assert (report.images, report.boxes, report.iscrowd, report.dropped) == (2, 2, 1, 1)
    assert (report.images_without_boxes, report.clipped) == (1, None)
    assert unified.info["clipping"] == "not done"
    assert not {"width", "height"} & set().union(*unified.images)
    assert unified.annotations[0]["bbox"] == [-5, 10, 9999, 20]
    assert json.loads((tmp_path / "unified/report.json").read_text())["clipped"] is None


def test_pp4av_without_images_is_refused_with_the_reason(tmp_path):
    source = layouts.write_pp4av(tmp_path, {"paris/1": PLATE})
    with pytest.raises(DatasetError, match="can't be unified without its images"):
        unify.unify(layouts.data(source), tmp_path / "unified", without_images=True)


def test_generated_files_give_the_counts_of_the_slow_parse(tmp_path):
    images = [(f"a/{i}.jpg", [(i, i, i % 3, 5, 0, 0, 0, i % 2, 0, 0)] * (i % 4)) for i in range(40)]
    path = layouts.write_annotation(tmp_path, layouts.widerface_text(images, "\r\n").encode())
    report = unify.unify(layouts.data(layouts.widerface_source(tmp_path)), tmp_path / "unified", without_images=True)
    counted = widerface_reference.counts(widerface_reference.read(path))
    assert {name: getattr(report, name) for name in counted} == counted


def real_data():
    if "ANONY_REAL_DATA" not in os.environ:
        pytest.skip("ANONY_REAL_DATA is not set: the real data is not here")
    return Path(os.environ["ANONY_REAL_DATA"])


def test_the_official_file_has_the_counts_that_are_known(tmp_path):
    root = real_data() / "widerface_official"
    report = unify.unify(unify.data_of(str(root), None), tmp_path, without_images=True)
    assert (report.images, report.boxes, report.iscrowd) == (3226, 39697, 585)
    assert (report.dropped, report.images_without_boxes, report.clipped) == (11, 4, None)
    reference = widerface_reference.counts(widerface_reference.read(root / ANNOTATION))
    assert {name: getattr(report, name) for name in reference} == reference
    import faster_coco_eval
    from pycocotools.coco import COCO

    for read in (COCO, faster_coco_eval.COCO):
        with contextlib.redirect_stdout(io.StringIO()):
            assert len(read(str(tmp_path / "unified_val.json")).anns) == 39697


def test_the_real_folders_are_unified_without_a_bad_file(tmp_path):
    root = real_data()
    report = unify.unify(unify.data_of(str(root / "widerface"), str(root / "pp4av")), tmp_path)
    assert (report.bad_images, report.bad_rows) == (0, 0)
    assert report.missing_splits == ("widerface/train: wider_face_split/wider_face_train_bbx_gt.txt is not there",)
    assert report.images + report.left_out_frames == 119 + 289
    for unified in opened(tmp_path).values():
        assert all(unified.image_file(image).is_file() for image in unified.images)


def test_missing_and_truncated_images_are_named_and_left_out(tmp_path):
    images = [(f"a/{i}.jpg", [GOOD]) for i in range(4)]
    source = layouts.write_widerface(tmp_path, images)
    folder = tmp_path / "WIDER_val/images/a"
    (folder / "0.jpg").unlink()
    (folder / "1.jpg").write_bytes((folder / "1.jpg").read_bytes()[:-40])
    (folder / "2.jpg").write_bytes(b"")
    report = unify.unify(layouts.data(source), tmp_path / "unified")
    assert problems(report, "image") == [
        ("WIDER_val/images/a/0.jpg", "the image is not there"),
        ("WIDER_val/images/a/1.jpg", "the image file is truncated"),
        ("WIDER_val/images/a/2.jpg", "the image file is empty"),
    ]
    assert f"named in {ANNOTATION}:1" in report.problems[1].got or f"named in {ANNOTATION}:1" in report.problems[0].got
    assert (report.images, report.bad_images) == (1, 3)
    assert [image["file_name"] for image in opened(tmp_path / "unified")["val"].images] == ["WIDER_val/images/a/3.jpg"]


def test_an_image_with_a_bad_row_says_that_its_kind_may_be_unlabeled(tmp_path):
    source = layouts.write_pp4av(tmp_path, {"paris/1": PLATE + "7 0.5 0.5 0.1 0.1\n", "paris/2": PLATE})
    report = unify.unify(layouts.data(source), tmp_path / "unified")
    assert report.bad_rows == 1
    images = opened(tmp_path / "unified")["train"].images
    assert [image["not_exhaustive_category_ids"] for image in images] == [[1, 2], []]


def test_too_much_that_is_bad_refuses_the_set_and_the_report_lists_all(tmp_path):
    source = layouts.write_pp4av(tmp_path, {f"paris/{i}": PLATE if i > 7 else None for i in range(100)})
    with pytest.raises(DatasetError, match=r"8 of 100 images(.|\n)*images/paris/0.jpg(.|\n)*max_bad_share: 1.0%"):
        unify.unify(layouts.data(source, max_bad_share=0.01), tmp_path / "unified")
    report = json.loads((tmp_path / "unified/report.json").read_text())
    assert (report["refused"], report["files"]) == ("too much of the data set is bad: 8 of 100 images", [])
    assert len([problem for problem in report["problems"] if problem["scope"] == "image"]) == 8
    assert not unify.unified_is_there(tmp_path / "unified")
    assert unify.unify(layouts.data(source, max_bad_share=0.08), tmp_path / "unified").images == 92


def test_the_share_is_each_source_s_own(tmp_path):
    data = both(tmp_path).model_copy(update={"max_bad_share": 0.2})
    (tmp_path / "raw/widerface/WIDER_val/images/0--Parade/2.jpg").unlink()
    with pytest.raises(DatasetError, match="1 of 3 images"):
        unify.unify(data, tmp_path / "unified")


def test_a_split_that_is_not_there_is_reported_and_its_file_is_empty(tmp_path):
    source = layouts.write_widerface(tmp_path, [("a/1.jpg", [GOOD])])
    report = unify.unify(layouts.data(source), tmp_path / "unified")
    assert report.missing_splits == ("widerface/train: wider_face_split/wider_face_train_bbx_gt.txt is not there",)
    assert opened(tmp_path / "unified")["train"].images == []


def test_a_style_for_a_group_that_is_not_there_is_noted(tmp_path):
    source = layouts.write_pp4av(tmp_path, {"paris/1": PLATE})
    source = source.model_copy(update={"plate_styles": {"pariss": "FR", "bern": "CH"}})
    report = unify.unify(layouts.data(source), tmp_path / "unified")
    assert [(problem.scope, problem.got) for problem in report.problems] == [("note", "bern, pariss")]


@pytest.mark.parametrize(("sequences", "split"), [(None, "blocks"), (True, "blocks"), (False, "stills")])
def test_pp4av_is_sequences_unless_it_is_said_to_be_stills(tmp_path, sequences, split):
    source = layouts.write_pp4av(tmp_path, {f"paris/{i}": "" for i in range(30)}, size=(4, 4))
    source = source.model_copy(update={"sequences": sequences})
    unify.unify(layouts.data(source), tmp_path / "unified")
    assert (len(opened(tmp_path / "unified")["val"].images) == 0) == (split == "blocks")


def test_settings_that_leave_no_val_frame_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="all be left out"):
        unify.unify(layouts.data(layouts.pp4av_source(tmp_path), splits=Splits(block_frames=5)), tmp_path / "unified")


@pytest.mark.parametrize("orientation", [1, 6])
def test_an_image_that_is_turned_by_its_metadata_is_measured_upright(tmp_path, orientation):
    source = layouts.write_pp4av(tmp_path, {"paris/1": PLATE})
    (tmp_path / "images/paris/1.jpg").write_bytes(layouts.picture(200, 100, orientation=orientation))
    unify.unify(layouts.data(source), tmp_path / "unified")
    (image,) = opened(tmp_path / "unified")["train"].images
    assert (image["width"], image["height"]) == ((200, 100) if orientation == 1 else (100, 200))


def test_remote_folders_give_the_same_annotations_as_local_ones(tmp_path):
    data = both(tmp_path)
    bucket = UPath(f"memory://{tmp_path.name}/raw")
    for name, content in layouts.below(tmp_path / "raw").items():
        (bucket / name).parent.mkdir(parents=True, exist_ok=True)
        (bucket / name).write_bytes(content)
    remote = tuple(s.model_copy(update={"root": str(bucket / s.name)}) for s in data.sources)
    output = f"memory://{tmp_path.name}/unified"
    unify.unify(data, tmp_path / "unified")
    unify.unify(data.model_copy(update={"sources": remote}), output, cache=tmp_path / "cache")
    here, there = opened(tmp_path / "unified"), opened(UPath(output))
    for split in ("train", "val"):
        assert (here[split].images, here[split].annotations) == (there[split].images, there[split].annotations)
        image = there[split].images[-1]
        assert there[split].is_remote
        assert there[split].image_file(image).read_bytes() == here[split].image_file(image).read_bytes()
    assert len(list((tmp_path / "cache").iterdir())) == 33


def test_a_missing_root_is_made_of_its_archive(tmp_path):
    layouts.write_pp4av(tmp_path / "packed", {"paris/1": PLATE})
    import shutil

    archive = shutil.make_archive(str(tmp_path / "pp4av"), "zip", tmp_path / "packed")
    source = layouts.pp4av_source(tmp_path / "raw/pp4av", download=archive)
    assert unify.unify(layouts.data(source), tmp_path / "unified").images == 1


def config_of(data, folder):
    return Config(data=data, paths=Paths(unified=str(folder / "unified"), cache=str(folder / "cache")))


def test_unified_files_that_are_there_are_used_as_they_are(tmp_path):
    config = config_of(both(tmp_path), tmp_path)
    assert unify.ensure_unified(config).images == 33
    before = layouts.below(tmp_path / "unified")
    (tmp_path / "raw").rename(tmp_path / "gone")
    assert unify.ensure_unified(config) is None
    assert layouts.below(tmp_path / "unified") == before
    assert not (tmp_path / "cache").exists()


def test_annotations_that_were_not_made_here_are_never_replaced(tmp_path):
    data, output = both(tmp_path), tmp_path / "own"
    unify.unify(data, output)
    unify.unify(data, output)  # its own are
    file = output / "unified_val.json"
    mine = json.loads(file.read_text())
    del mine["info"]["made_with"]
    file.write_text(json.dumps(mine))
    before = layouts.below(output)
    with pytest.raises(DatasetError, match=r"not made here, and would be replaced[\s\S]*unified_val"):
        unify.unify(data, output)
    assert layouts.below(output) == before


def test_files_made_with_other_settings_are_used_with_a_warning(tmp_path, caplog):
    data = both(tmp_path)
    unify.ensure_unified(config_of(data, tmp_path))
    unify.ensure_unified(config_of(data, tmp_path))
    assert not caplog.records
    unify.ensure_unified(config_of(data.model_copy(update={"splits": Splits(block_frames=12)}), tmp_path))
    assert "made with other settings" in caplog.text


def test_one_of_two_unified_files_is_an_error_and_stays(tmp_path):
    config = config_of(both(tmp_path), tmp_path)
    unify.ensure_unified(config)
    (tmp_path / "unified/unified_val.json").unlink()
    with pytest.raises(DatasetError, match=r"only one of the two(.|\n)*unified_train.json"):
        unify.ensure_unified(config)
    assert (tmp_path / "unified/unified_train.json").exists()


def test_a_damaged_unified_file_that_is_there_is_an_error(tmp_path):
    config = config_of(both(tmp_path), tmp_path)
    unify.ensure_unified(config)
    (tmp_path / "unified/unified_val.json").write_text("{")
    with pytest.raises(DatasetError, match="can't be read"):
        unify.ensure_unified(config)


def test_a_cache_that_is_not_on_this_machine_is_refused(tmp_path):
    source = layouts.pp4av_source("memory://anywhere/pp4av")
    config = Config(data=layouts.data(source), paths=Paths(unified=str(tmp_path), cache="memory://anywhere/cache"))
    with pytest.raises(ConfigError, match="cache must be on this machine"):
        unify.ensure_unified(config)


def test_nothing_appears_under_its_name_if_the_disk_refuses_it(tmp_path, monkeypatch):
    data = both(tmp_path)
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(DatasetError, match=r"can't be written(.|\n)*No space left"):
        unify.unify(data, tmp_path / "unified")
    assert not list((tmp_path / "unified").iterdir())


def test_unifying_loads_neither_torch_nor_opencv():
    code = """
import sys
from anony_pipeline.datasets import archives, coco, ground_truth, image_headers, pp4av, similarity, unify, widerface
print(sorted({"torch", "cv2", "dagster"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
