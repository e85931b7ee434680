import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from anony_pipeline.errors import AnonyPipelineError, ConfigError, DatasetError, WeightsError
from anony_pipeline.evaluation import baselines, folders
from anony_pipeline.evaluation.run import scenes_of
from anony_pipeline.ops import images
from anony_pipeline_tests.evaluation import street

SETTINGS = ["evaluation.bootstrap=20", "evaluation.baselines=[none, solid, inpaint]"]


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """Originals, their solid versions but for one plate in twelve, and boxes with other people's category names."""
    root = tmp_path_factory.mktemp("given")
    unified = street.make_street(root / "originals", images_count=24)
    for scene in scenes_of(unified):
        treated = baselines.redaction("solid").apply([scene])[0]
        if scene.record["id"] % 12 == 0:
            x0, y0, x1, y1 = treated.masks_xyxy[2]
            treated.image_rgb[y0:y1, x0:x1] = scene.image_rgb[y0:y1, x0:x1]
        images.write(root / "anonymized" / scene.record["file_name"], treated.image_rgb)
    kept = [{key: image[key] for key in ("id", "file_name", "width", "height")} for image in unified.images]
    renumbered = [{**a, "category_id": {1: 7, 2: 4}[a["category_id"]]} for a in unified.annotations]
    categories = [{"id": 7, "name": "Face"}, {"id": 4, "name": "licence plate"}]
    content = {"images": kept, "annotations": renumbered, "categories": categories}
    (root / "boxes.json").write_text(json.dumps(content))
    return root, content


@pytest.fixture
def copy(given, tmp_path):
    """The same files, to be spoiled, and how they are judged with judges that see."""
    root, content = given
    for name in ("originals", "anonymized"):
        shutil.copytree(root / name, tmp_path / name)
    shutil.copy(root / "boxes.json", tmp_path)
    return tmp_path, content


def judge(root, monkeypatch, boxes="boxes.json", settings=SETTINGS, detectors=True):
    originals = root / "originals"
    unified = folders.read_boxes(root / boxes, originals)
    judges = street.make_judges(unified)
    judges = judges if detectors else replace(judges, detectors={})
    monkeypatch.setattr(folders, "load_without_checkpoint", lambda *_: judges)
    config = folders.configuration([], settings)
    return folders.evaluate(config, originals, root / "anonymized", root / boxes, root / "output")


def test_two_folders_and_boxes_give_a_scorecard_and_a_page_without_a_checkpoint(given, monkeypatch):
    root, _ = given
    card = judge(root, monkeypatch)
    ours = card.row().figures
    assert card.subject.kind == "folder"
    assert ours["plate_leak_rate"].value == pytest.approx(2 / 24)
    assert ours["coverage"].value == pytest.approx(70 / 72)
    assert ours["reid_rank1"].value < 0.4
    assert card.row("none").figures["reid_rank1"].value == 1
    assert "nobody says what was to be replaced" in ours["changed_outside_masks"].reason
    assert card.row("solid").figures["changed_outside_masks"].value == 0
    assert card.treated == {"face replaced": 48, "license_plate left as it was by half or more": 2} | {
        "license_plate replaced": 22
    }
    assert not card.data.procedural
    assert str(root / "anonymized") in card.command
    page = (root / "output" / "report" / "index.html").read_text()
    assert "data:image/" not in page
    assert "the folder&#39;s images" in page or "the folder's images" in page
    assert "anonymizer, end to end" not in page
    assert page.index("height &lt;16 px") < page.index("height 16-32 px")


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_a_lossy_copy_of_the_originals_is_not_taken_for_anonymized(copy, monkeypatch, suffix):
    root, _ = copy
    for file in list((root / "anonymized").iterdir()):
        file.unlink()
        images.write(root / "lossy.jpg", images.read(root / "originals" / file.name))
        images.write(root / "anonymized" / f"{file.stem}{suffix}", images.read(root / "lossy.jpg"))
    ours = judge(root, monkeypatch, detectors=False).row().figures
    assert ours["coverage"].value < 0.1
    assert ours["reid_rank1"].value > 0.9
    assert ours["plate_leak_rate"].value == 1


def test_a_category_that_is_not_listed_counts_as_unlabeled(copy):
    root, content = copy
    faces = [a for a in content["annotations"] if a["category_id"] == 7]
    (root / "boxes.json").write_text(
        json.dumps({**content, "annotations": faces, "categories": [{"id": 7, "name": "face"}]})
    )
    found = folders.read_boxes(root / "boxes.json", root / "originals")
    assert all(image["not_exhaustive_category_ids"] == [2] for image in found.images)


def test_other_categories_are_left_out_of_account_as_they_are_when_anonymizing(copy, caplog):
    root, content = copy
    person = {"id": 900, "image_id": content["images"][0]["id"], "category_id": 12}
    categories = [*content["categories"], {"id": 12, "name": "person"}]
    others = {**content, "annotations": [person, *content["annotations"]], "categories": categories}
    (root / "boxes.json").write_text(json.dumps(others))
    found = folders.read_boxes(root / "boxes.json", root / "originals")
    assert [a["id"] for a in found.annotations] == [a["id"] for a in content["annotations"]]
    assert "left out of account: person" in caplog.text


def test_what_an_image_leaves_unlabeled_is_said_in_the_files_own_numbers(copy):
    root, content = copy
    first, *rest = content["images"]
    images_ = [first | {"not_exhaustive_category_ids": [4]}, *rest]
    (root / "boxes.json").write_text(json.dumps({**content, "images": images_}))
    found = folders.read_boxes(root / "boxes.json", root / "originals")
    assert [image["not_exhaustive_category_ids"] for image in found.images[:2]] == [[2], []]


def test_a_single_image_gives_nulls_that_say_why(copy, monkeypatch):
    root, content = copy
    one = {**content, "images": content["images"][:1], "annotations": content["annotations"][:3]}
    (root / "boxes.json").write_text(json.dumps(one))
    card = judge(root, monkeypatch, settings=[*SETTINGS, "evaluation.floors.reid_rank1=0"])
    assert "only" in card.row().figures["coverage"].reason
    assert card.row().figures["reid_rank1"].value is None
    assert not card.passed


def spoil_missing(root, content):
    (root / "anonymized" / "003.png").unlink()
    return "1 of 24 images of the boxes lack an anonymized version"


def spoil_original(root, content):
    (root / "originals" / "003.png").unlink()
    return "1 of 24 images of the boxes lack an original"


def spoil_size(root, content):
    images.write(root / "anonymized" / "005.png", np.zeros((60, 100, 3), np.uint8))
    return "005.png: 200 x 120 and 100 x 60 px"


def spoil_same(root, content):
    shutil.rmtree(root / "anonymized")
    (root / "anonymized").symlink_to(root / "originals")
    return "one and the same folder"


def spoil_folder(root, content):
    shutil.rmtree(root / "anonymized")
    return "there is no such folder of images"


def spoil_boxes(root, content):
    (root / "boxes.json").write_text(json.dumps({**content, "annotations": []}))
    return "24 images without boxes"


def spoil_category(root, content):
    (root / "boxes.json").write_text(json.dumps({**content, "categories": [{"id": 7, "name": "dog"}]}))
    return "not clear which categories are faces and license plates"


def spoil_unknown_number(root, content):
    (root / "boxes.json").write_text(json.dumps({**content, "categories": [{"id": 7, "name": "face"}]}))
    return "24 annotations are of categories that the file does not list"


def spoil_format(root, content):
    (root / "boxes.json").write_text("[1, 2]")
    return "is not COCO"


def spoil_file(root, content):
    (root / "boxes.json").unlink()
    return "no such boxes file"


def spoil_number(root, content):
    annotations = [{**content["annotations"][0], "bbox": [1, 2, -3, 4]}, *content["annotations"][1:]]
    (root / "boxes.json").write_text(json.dumps({**content, "annotations": annotations}))
    return "the boxes file is not COCO of faces and license plates"


def spoil_score(root, content):
    annotations = [{**annotation, "score": None} for annotation in content["annotations"]]
    (root / "boxes.json").write_text(json.dumps({**content, "annotations": annotations}))
    return "score must be a number: got None"


def spoil_source(root, content):
    images_ = [{**image, "source": ["web"]} for image in content["images"]]
    (root / "boxes.json").write_text(json.dumps({**content, "images": images_}))
    return "is not COCO"


def spoil_place(root, content):
    annotations = [{**content["annotations"][0], "bbox": [500, 20, 30, 30]}, *content["annotations"][1:]]
    (root / "boxes.json").write_text(json.dumps({**content, "annotations": annotations}))
    return f"1 of {len(annotations)} boxes lie beyond their images"


def spoil_scale(root, content):
    images_ = [{**image, "width": 400, "height": 240} for image in content["images"]]
    (root / "boxes.json").write_text(json.dumps({**content, "images": images_}))
    return "24 of 24 originals have another size than the boxes file says"


def spoil_name(root, content):
    first, *rest = content["images"]
    leading = {**first, "file_name": f"../originals/{first['file_name']}"}
    (root / "boxes.json").write_text(json.dumps({**content, "images": [leading, *rest]}))
    return "1 of 24 images lie outside the folders"


def spoil_records(root, content):
    twin = {**content["images"][0], "id": 999, "file_name": f"./{content['images'][0]['file_name']}"}
    (root / "boxes.json").write_text(json.dumps({**content, "images": [*content["images"], twin]}))
    return "1 of 24 images have more than one record"


def spoil_pixels(root, content):
    shares = [{**annotation, "bbox": [0.1, 0.2, 0.1, 0.2]} for annotation in content["annotations"]]
    (root / "boxes.json").write_text(json.dumps({**content, "annotations": shares}))
    return "in shares of the image's size, not in pixels"


def spoil_suffix(root, content):
    """A photograph that nobody anonymized, beside another one of its name but for the suffix."""
    images.write(root / "originals" / "003.jpg", images.read(root / "originals" / "004.png"))
    other = {**content["images"][3], "id": 999, "file_name": "003.jpg"}
    (root / "boxes.json").write_text(json.dumps({**content, "images": [*content["images"], other]}))
    return "2 of 25 images would share an anonymized version"


def spoil_image(root, content):
    (root / "anonymized" / "004.png").write_bytes(b"")
    return "empty"


@pytest.mark.parametrize("spoil", [value for name, value in sorted(globals().items()) if name.startswith("spoil_")])
def test_bad_input_is_refused_with_the_reason(copy, monkeypatch, spoil):
    root, content = copy
    message = spoil(root, content)
    with pytest.raises(AnonyPipelineError) as error:
        judge(root, monkeypatch)
    assert message in str(error.value)
    assert not (root / "output").exists()


@pytest.mark.parametrize("below", ["", "below"])
def test_an_output_that_cannot_be_written_is_refused_before_anybody_looks(given, monkeypatch, tmp_path, below):
    root, _ = given
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr(folders, "load_without_checkpoint", lambda *_: pytest.fail("judges were loaded"))
    with pytest.raises(ConfigError, match="is a file"):
        folders.evaluate(
            folders.configuration([], SETTINGS),
            root / "originals",
            root / "anonymized",
            root / "boxes.json",
            tmp_path / "file" / below,
        )


def test_lists_of_a_protocol_that_are_missing_are_named_before_anybody_looks(given, monkeypatch):
    root, _ = given
    monkeypatch.setattr(folders.Run, "look", lambda _: pytest.fail("judges looked"))
    with pytest.raises(DatasetError, match="ground truth can't be read"):
        judge(root, monkeypatch, settings=[*SETTINGS, "evaluation.widerface_ground_truth=nowhere"])


@pytest.mark.parametrize(
    ("setting", "kind"),
    [
        ("judges.second_detector=none.onnx", WeightsError),
        ("judges.held_out_recognizer=none.onnx", WeightsError),
        ("judges.second_detektor=x", ConfigError),
    ],
)
def test_a_judge_that_is_missing_or_unknown_is_named(given, setting, kind):
    root, _ = given
    with pytest.raises(kind, match=r"none\.onnx|second_detektor"):
        folders.evaluate(
            folders.configuration([], [*SETTINGS, setting]),
            root / "originals",
            root / "anonymized",
            root / "boxes.json",
            root / "other",
        )


def test_a_second_detector_of_another_architecture_is_refused(given, tmp_path):
    from anony_pipeline.models import weights

    root, _ = given
    recognizer = weights.shipped("recognizer.onnx")
    config = folders.configuration([], [*SETTINGS, f"judges.second_detector={recognizer}"])
    with pytest.raises((WeightsError, DatasetError), match="YuNet"):
        folders.evaluate(config, root / "originals", root / "anonymized", root / "boxes.json", tmp_path / "out")
