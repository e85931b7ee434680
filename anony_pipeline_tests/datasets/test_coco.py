"""The unified file: written, read back, and refused when it is not what it claims to be."""

import json

import pytest
from upath import UPath

from anony_pipeline.datasets import coco
from anony_pipeline.errors import DatasetError

INFO = {"sources": {"pp4av": {"root": "../raw/pp4av"}}}
IMAGE = {"id": 1, "file_name": "images/eu/a#1.jpg", "source": "pp4av", "plate_style": "FR"}
FACE = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3.5, 4], "area": 14.0, "iscrowd": 1}
PLATE = {
    "id": 2,
    "image_id": 1,
    "category_id": 2,
    "bbox": [5, 6, 7, 8],
    "area": 56,
    "iscrowd": 0,
    "identity": "plate-1",
}


def content(**changes):
    return {"info": INFO, "categories": coco.CATEGORIES, "images": [IMAGE], "annotations": [FACE, PLATE], **changes}


def written(folder, value):
    path = folder / "unified_val.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


@pytest.mark.parametrize("scheme", ["local", "memory"])
def test_a_set_that_is_saved_is_loaded_again(tmp_path, scheme):
    folder = tmp_path if scheme == "local" else UPath(f"memory://{tmp_path.name}/here/unified")
    path = folder / "unified_val.json"
    coco.save(path, INFO, [IMAGE], [FACE, PLATE])
    unified = coco.load(path)
    assert (unified.info, unified.images, unified.annotations, len(unified)) == (INFO, [IMAGE], [FACE, PLATE], 1)
    assert json.loads(path.read_text())["categories"] == coco.CATEGORIES


def test_regions_carry_kind_box_track_style_and_annotation(tmp_path):
    other = {"id": 2, "file_name": "b.jpg"}
    regions = coco.load(written(tmp_path, content(images=[IMAGE, other]))).regions_by_image()
    face, plate = regions[1]
    assert (face.kind, face.box_xyxy, face.annotation_id) == ("face", (1, 2, 4.5, 6), 1)
    assert (plate.kind, plate.track, plate.style, plate.annotation_id) == ("license_plate", "plate-1", "FR", 2)
    assert regions[2] == []


def test_files_lie_below_their_source_s_root_or_beside_the_unified_file(tmp_path):
    folder = tmp_path / "data/unified"
    folder.mkdir(parents=True)
    unified = coco.load(written(folder, content()))
    assert unified.image_file(IMAGE) == tmp_path / "data/raw/pp4av/images/eu/a#1.jpg"
    assert unified.image_file({"file_name": "b.jpg"}) == folder / "b.jpg"
    assert unified.image_file({"file_name": "/elsewhere/b.jpg"}).as_posix() == "/elsewhere/b.jpg"


def test_a_remote_root_gives_remote_files(tmp_path):
    unified = coco.load(written(tmp_path, content(info={"sources": {"pp4av": {"root": "memory://bucket/pp4av"}}})))
    assert str(unified.image_file(IMAGE)) == "memory://bucket/pp4av/images/eu/a#1.jpg"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("", "can't be read"),
        ("{", "can't be read"),
        ("[]", "must be a JSON object"),
        ({"images": []}, "annotations: must be a list"),
        (content(images=[1]), "images: must be a list of objects"),
        (content(info=3), "info: must be an object"),
        (content(info={"sources": {"a": {}}}), "must have a root"),
        (content(categories=[{"id": 0, "name": "face"}]), r"categories: got \[\[0, 'face'\]\]"),
        (content(categories=[{"id": {}, "name": []}]), "categories: got"),
        (content(images=[IMAGE, IMAGE]), "images: the id 1 stands 2 times"),
        (content(images=[{**IMAGE, "id": "1"}]), "images: every id must be a whole number"),
        (content(images=[{"id": 1}]), r"images\[0\]: file_name"),
        (content(images=[{**IMAGE, "source": ["a"]}]), r"images\[0\]: source must be text: got \['a'\]"),
        (content(images=[{**IMAGE, "plate_style": 49}]), r"images\[0\]: plate_style must be text: got 49"),
        (content(images=[{**IMAGE, "not_exhaustive_category_ids": 2}]), "must be a list of whole numbers: got 2"),
        (content(images=[{**IMAGE, "width": "80"}]), r"images\[0\]: width must be a number of .* got '80'"),
        (content(images=[{**IMAGE, "height": 0}]), r"images\[0\]: height must be a number of pixels above 0: got 0"),
        (content(annotations=[{**FACE, "score": None}]), r"annotations\[0\]: score must be a number: got None"),
        (content(annotations=[{**FACE, "score": "0.9"}]), r"annotations\[0\]: score must be a number: got '0.9'"),
        (content(annotations=[{**FACE, "image_id": 9}]), r"annotations\[0\]: image_id 9 names no image"),
        (content(annotations=[{**FACE, "image_id": [1]}]), r"annotations\[0\]: image_id"),
        (content(annotations=[{**FACE, "category_id": 3}]), r"annotations\[0\]: category_id"),
        (content(annotations=[{**FACE, "bbox": [1, 2, 0, 4]}]), r"annotations\[0\]: bbox"),
        (content(annotations=[{**FACE, "bbox": [1, 2, 3]}]), r"annotations\[0\]: bbox"),
        (json.dumps(content(annotations=[{**FACE, "bbox": [1, 2, 3, float("nan")]}])), r"annotations\[0\]: bbox"),
        (content(annotations=[{**FACE, "landmarks": [[1, 2]] * 4}]), r"annotations\[0\]: landmarks must be 5 points"),
        (json.dumps(content(annotations=[{**FACE, "landmarks": [[1, float("nan")]] * 5}])), r"landmarks must be .*nan"),
        (content(annotations=[{**PLATE, "quad": [[1, 2, 3]] * 4}]), r"annotations\[0\]: quad must be 4 points"),
        (content(annotations=[{**FACE, "landmarks": [[1, 2]] * 5}]), r"annotations\[0\]: landmarks must not be one"),
        (content(annotations=[{**PLATE, "quad": [[1, 2], [3, 4], [5, 6], [7, 8]]}]), r"quad must enclose an area"),
        (content(annotations=[{**FACE, "id": n, "category_id": 0} for n in range(9)]), "and 4 more"),
    ],
)
def test_a_file_that_is_no_unified_set_is_refused_with_the_place(tmp_path, value, message):
    path = written(tmp_path, value)
    with pytest.raises(DatasetError, match=message) as caught:
        coco.load(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_an_error_that_says_how_to_make_it(tmp_path):
    with pytest.raises(DatasetError, match=r"no such unified file(.|\n)*anony unify"):
        coco.load(tmp_path / "unified_val.json")


def test_a_number_that_json_does_not_have_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        coco.save(tmp_path / "a.json", {}, [], [{**FACE, "area": float("inf")}])
    assert not list(tmp_path.iterdir())
