"""Given boxes: those of the right image, and none that can't be right."""

import json
from pathlib import Path

import pytest

from anony_pipeline.anonymize.labels import Labels
from anony_pipeline.errors import DatasetError
from anony_pipeline.structures.regions import Kind

IMAGE = {"id": 7, "file_name": "a.png", "width": 80, "height": 60}
FACE = {"id": 3, "image_id": 7, "category_id": 5, "bbox": [40, 20, 20, 10]}
CAR = {"id": 1, "image_id": 7, "category_id": 9}
"""Of a category that is left as it is; it has no box."""
CATEGORIES = [{"id": 5, "name": "face"}, {"id": 9, "name": "car"}]


def written(tmp_path, **changes):
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps({"images": [IMAGE], "annotations": [CAR, FACE], "categories": CATEGORIES} | changes))
    return path


def matched(tmp_path, files, names):
    """The ``file_name`` of the record that each image gets; images lie below ``/photos``."""
    records = [{"id": number, "file_name": file} for number, file in enumerate(files, start=1)]
    path = written(tmp_path, images=records, annotations=[])
    found = Labels.read(path, {name: Path("/photos") / source for name, source in names.items()})
    return {name: record["file_name"] for name, record in found.record_of.items()}


@pytest.mark.parametrize(
    ("files", "names", "expected"),
    [
        (["cam1/1.png"], ["cam1/1.png", "cam2/1.png"], {"cam1/1.png": "cam1/1.png"}),
        (["cam1/1.png"], ["cam2/1.png"], {}),
        (["1.png"], ["cam1/1.png"], {"cam1/1.png": "1.png"}),
        (["1.png"], ["1.png", "cam1/1.png"], {"1.png": "1.png"}),
        (["1.png"], ["cam1/1.png", "cam2/1.png"], {}),
        (["cam1/1.png", "cam2/1.png"], ["cam3/1.png"], {}),
        (["./cam1/1.png"], ["cam1/1.png"], {"cam1/1.png": "./cam1/1.png"}),
    ],
    ids=["another camera", "only another", "last part", "has its own", "two claim it", "two records", "dot"],
)
def test_an_image_has_the_record_of_its_own_name_or_one_that_can_be_no_other_s(tmp_path, files, names, expected):
    assert matched(tmp_path, files, {name: name for name in names}) == expected


@pytest.mark.parametrize("file", ["cam1/1.png", "/photos/cam1/1.png", "photos/cam1/1.png"])
def test_a_record_may_name_the_folders_in_which_the_image_lies(tmp_path, file):
    assert matched(tmp_path, [file], {"1.png": "cam1/1.png"}) == {"1.png": file}
    assert matched(tmp_path, [file], {"1.png": "cam2/1.png"}) == {}


def test_an_image_without_a_record_is_refused_and_one_without_regions_is_not(tmp_path):
    labels = Labels.read(written(tmp_path), {"a.png": Path("a.png"), "b.png": Path("b.png")})
    assert [region.kind for region in labels.regions("a.png", (60, 80))] == [Kind.FACE]
    with pytest.raises(DatasetError, match="does not know the image"):
        labels.regions("b.png", (60, 80))
    labels = Labels.read(written(tmp_path, annotations=[]), {"a.png": Path("a.png")})
    assert labels.regions("a.png", (60, 80)) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bbox": [60, 40, -20, 10]}, r"annotations\[1\]: bbox must be .*-20"),
        ({"bbox": [60, 40, 0, 10]}, r"annotations\[1\]: bbox must be .*0, 10"),
        ({"bbox": [float("nan"), 40, 20, 10]}, r"annotations\[1\]: bbox must be .*nan"),
        ({"bbox": None}, r"annotations\[1\]: bbox must be .*None"),
        ({"bbox": [80, 10, 20, 10]}, r"annotation 3: bbox lies beyond its image of 80 x 60 px: got \[80, 10, 20, 10\]"),
        ({"bbox": [-30, 10, 30, 10]}, "annotation 3: bbox lies beyond its image"),
        ({"bbox": [0.1, 0.1, 0.2, 0.3]}, r"in shares of the image's size(.|\n)*annotation 3(.|\n)*0\.1, 0\.2"),
        ({"image_id": "7"}, r"annotations\[1\]: image_id '7' names no image"),
        ({"image_id": 8}, r"annotations\[1\]: image_id 8 names no image"),
        ({"category_id": 6}, "categories that the file does not list(.|\n)*annotation 3: category_id 6"),
        ({"category_id": "5"}, "categories that the file does not list(.|\n)*annotation 3: category_id '5'"),
        ({"category_id": None}, "categories that the file does not list(.|\n)*annotation 3: category_id None"),
        ({"landmarks": [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]}, r"annotations\[1\]: landmarks must be 5 points"),
        ({"landmarks": [[1, 2], [3, 4]]}, r"annotations\[1\]: landmarks must be 5 points"),
        ({"score": None}, r"annotations\[1\]: score must be a number: got None"),
        ({"id": 1}, "annotations: the id 1 stands 2 times"),
    ],
)
def test_a_region_that_can_t_be_right_is_refused_with_its_annotation_and_value(tmp_path, changes, message):
    path = written(tmp_path, annotations=[CAR, FACE | changes])
    with pytest.raises(DatasetError, match=message) as error:
        Labels.read(path, {"a.png": Path("a.png")})
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([IMAGE, IMAGE | {"id": 8}], "a.png has 2 records"),
        ([IMAGE, IMAGE | {"id": 8, "file_name": "./a.png"}], "a.png has 2 records"),
        ([IMAGE | {"width": -80}], r"images\[0\]: width must be a number of pixels above 0: got -80"),
        ([IMAGE | {"height": "60"}], r"images\[0\]: height must be a number of pixels above 0: got '60'"),
        ([IMAGE | {"plate_style": ["FR"]}], r"images\[0\]: plate_style must be text"),
    ],
)
def test_an_image_s_record_that_can_t_be_right_is_refused(tmp_path, images, message):
    path = written(tmp_path, images=images)
    with pytest.raises(DatasetError, match=message) as error:
        Labels.read(path, {"a.png": Path("a.png")})
    assert str(path) in str(error.value)


def test_a_category_that_is_left_as_it_is_is_named(tmp_path, caplog):
    Labels.read(written(tmp_path), {"a.png": Path("a.png")})
    assert "neither faces nor license plates, so left out of account: car" in caplog.text


def test_two_categories_of_one_number_are_refused(tmp_path):
    path = written(tmp_path, categories=[*CATEGORIES, {"id": 5, "name": "car"}])
    with pytest.raises(DatasetError, match="not clear which categories"):
        Labels.read(path, {"a.png": Path("a.png")})


def test_one_box_of_a_pixel_beside_others_is_in_pixels(tmp_path):
    path = written(tmp_path, annotations=[FACE, FACE | {"id": 4, "bbox": [0, 0, 1, 1]}])
    assert len(Labels.read(path, {"a.png": Path("a.png")}).regions("a.png", (60, 80))) == 2
