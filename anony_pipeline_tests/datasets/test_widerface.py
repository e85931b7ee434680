"""WIDERFace: what the official files hold, and every way in which a file can be wrong."""

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anony_pipeline.datasets import widerface
from anony_pipeline.errors import DatasetError
from anony_pipeline.structures.regions import Kind
from anony_pipeline_tests.datasets import layouts
from anony_pipeline_tests.references import widerface_reference

ROW = "10 10 20 20 0 1 0 0 2 1"
FILE = "wider_face_split/wider_face_val_bbx_gt.txt"


def read_text(folder, text):
    layouts.write_annotation(folder, text.encode() if isinstance(text, str) else text)
    return widerface.read(layouts.widerface_source(folder), "val")


def as_reference(result):
    return [
        (image.file_name.removeprefix("WIDER_val/images/"), [(*box.box_xywh, box.attributes) for box in image.boxes])
        for image in result.images
    ]


def of_reference(images):
    return [
        (
            image["name"],
            [
                (face["x"], face["y"], face["w"], face["h"], {name: face[name] for name in widerface.ATTRIBUTES})
                for face in image["faces"]
                if face["w"] > 0 and face["h"] > 0
            ],
        )
        for image in images
    ]


NAMES = st.text(
    st.characters(codec="utf-8", categories=("L", "N"), include_characters="-_ #().&"), min_size=1, max_size=12
)
ROWS = st.tuples(
    *[st.integers(-2000, 5000)] * 2,
    *[st.integers(-3, 5000)] * 2,
    *[st.integers(0, largest) for largest in widerface.ATTRIBUTES.values()],
)
IMAGES = st.lists(
    st.tuples(NAMES.map(lambda name: f"0--Parade/{name.strip()}x.jpg"), st.lists(ROWS, max_size=5)),
    min_size=1,
    max_size=8,
    unique_by=lambda image: image[0],
)


@settings(max_examples=60, deadline=None)
@given(images=IMAGES, newline=st.sampled_from(["\n", "\r\n"]), marked=st.booleans(), blank=st.booleans())
def test_what_was_written_is_read_and_equals_the_slow_parse(tmp_path_factory, images, newline, marked, blank):
    folder = tmp_path_factory.mktemp("widerface")
    text = layouts.widerface_text(images)
    plain = layouts.write_annotation(folder / "plain", text.encode())
    disguised = text.replace("\n", "\n\n" if blank else "\n").replace("\n", newline)
    result = read_text(folder, (b"\xef\xbb\xbf" if marked else b"") + disguised.encode())
    reference = widerface_reference.read(plain)
    assert as_reference(result) == of_reference(reference)
    assert result.dropped == widerface_reference.counts(reference)["dropped"]
    assert not [problem for problem in result.problems if problem.scope != "note"]
    assert [box.iscrowd for image in result.images for box in image.boxes] == [
        bool(row[7]) for _, rows in images for row in rows if row[2] > 0 and row[3] > 0
    ]


def test_the_official_file_equals_the_slow_parse():
    if "ANONY_REAL_DATA" not in os.environ:
        pytest.skip("ANONY_REAL_DATA is not set: the official annotation is not here")
    root = Path(os.environ["ANONY_REAL_DATA"]) / "widerface_official"
    result = widerface.read(layouts.widerface_source(root), "val")
    assert as_reference(result) == of_reference(widerface_reference.read(root / FILE))


def test_the_dummy_row_of_an_image_without_faces_is_no_box(tmp_path):
    result = read_text(tmp_path, f"a/1.jpg\n0\n{' '.join('0' * 10)}\na/2.jpg\n1\n{ROW}\n")
    assert [len(image.boxes) for image in result.images] == [0, 1]
    assert (result.problems, result.dropped, result.rows) == ([], 0, 1)


def test_a_zero_count_without_dummy_row_is_accepted(tmp_path):
    result = read_text(tmp_path, f"a/1.jpg\n0\na/2.jpg\n1\n{ROW}\n")
    assert [len(image.boxes) for image in result.images] == [0, 1]
    assert not result.problems


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ("1 2 3", "too few numbers"),
        (ROW + " 7", "too many numbers"),
        ("10 10 2o 20 0 1 0 0 2 1", "no finite number"),
        ("10 10 nan 20 0 1 0 0 2 1", "no finite number"),
        ("10 10 1e999 20 0 1 0 0 2 1", "no finite number"),
        ("10 10 1_0 20 0 1 0 0 2 1", "no finite number"),
        ("10 10 20 20 3 1 0 0 2 1", "blur must be"),
        ("10 10 20 20 0 1 0 0.5 2 1", "invalid must be"),
    ],
    ids=["few", "many", "letter", "nan", "infinite", "underscore", "attribute", "fraction"],
)
def test_a_bad_row_is_named_with_its_line_and_the_others_stay(tmp_path, row, what):
    result = read_text(tmp_path, f"a/1.jpg\n2\n{row}\n{ROW}\na/2.jpg\n1\n{ROW}\n")
    (problem,) = result.problems
    assert (problem.scope, problem.where) == ("row", f"{FILE}:3")
    assert what in problem.what
    assert problem.got == row
    assert [len(image.boxes) for image in result.images] == [1, 1]
    assert [image.unsure for image in result.images] == [{Kind.FACE}, set()]


@pytest.mark.parametrize(
    ("count", "line", "what"),
    [
        ("3", 2, "is 3, but 2 rows"),
        ("1", 2, "is 1, but 2 rows"),
        ("0", 2, "is 0, but 2 rows"),
        ("two", 2, "should stand here"),
        ("-1", 2, "should stand here"),
        ("2.0", 2, "should stand here"),
        (None, 2, "should stand here"),
    ],
    ids=["too large", "too small", "zero", "word", "negative", "fraction", "missing"],
)
def test_a_wrong_count_is_named_and_shifts_nothing(tmp_path, count, line, what):
    counted = "" if count is None else f"{count}\n"
    result = read_text(tmp_path, f"a/1.jpg\n{counted}{ROW}\n{ROW}\na/2.jpg\n1\n{ROW}\n")
    (problem,) = result.problems
    assert problem.where == f"{FILE}:{line}"
    assert what in problem.what
    assert [(len(image.boxes), bool(image.unsure)) for image in result.images] == [(2, True), (1, False)]


def test_a_file_that_breaks_off_is_a_problem_of_its_last_image(tmp_path):
    result = read_text(tmp_path, f"a/1.jpg\n1\n{ROW}\na/2.jpg\n")
    (problem,) = result.problems
    assert problem.where == f"{FILE}:4"
    assert [len(image.boxes) for image in result.images] == [1, 0]


def test_lines_before_the_first_name_are_a_problem(tmp_path):
    result = read_text(tmp_path, f"{ROW}\n{ROW}\na/2.jpg\n1\n{ROW}\n")
    (problem,) = result.problems
    assert problem.where == f"{FILE}:1"
    assert "2 lines stand before" in problem.what
    assert len(result.images) == 1


def test_a_name_that_stands_twice_is_a_problem_and_the_first_is_in_doubt(tmp_path):
    result = read_text(tmp_path, f"a/1.jpg\n1\n{ROW}\na/1.jpg\n2\n{ROW}\n{ROW}\n")
    (problem,) = result.problems
    assert (problem.scope, problem.where) == ("image", f"{FILE}:4")
    assert f"first at {FILE}:1" in problem.what
    assert [(len(image.boxes), image.unsure) for image in result.images] == [(1, {Kind.FACE})]


@pytest.mark.parametrize("name", ["../1.jpg", "/etc/1.jpg", "a\\1.jpg", "a/../../1.jpg"])
def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path, name):
    result = read_text(tmp_path, f"{name}\n1\n{ROW}\n")
    assert not result.images
    assert "stays in its folder" in result.problems[0].what


def test_zero_and_negative_sizes_are_dropped_and_counted(tmp_path):
    rows = ["10 10 0 20 0 1 0 0 2 1", "10 10 20 0 0 1 0 0 2 1", "10 10 -2 20 0 1 0 0 2 1", ROW]
    result = read_text(tmp_path, "a/1.jpg\n4\n" + "\n".join(rows) + "\n")
    assert (result.dropped, len(result.images[0].boxes), result.images[0].unsure) == (3, 1, set())
    assert [(problem.scope, problem.where) for problem in result.problems] == [("note", f"{FILE}:5")]


@pytest.mark.parametrize("content", [b"", b"\xef\xbb\xbf", b"\r\n \n"], ids=["0 bytes", "only a mark", "blank lines"])
def test_an_empty_annotation_is_an_error(tmp_path, content):
    with pytest.raises(DatasetError, match="annotation is empty"):
        read_text(tmp_path, content)


def test_an_annotation_that_is_no_utf8_is_an_error(tmp_path):
    with pytest.raises(DatasetError, match=r"no UTF-8 text(.|\n)*byte 0xff at 0"):
        read_text(tmp_path, "a/1.jpg\n".encode("utf-16"))


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(DatasetError, match="folder is not there"):
        widerface.read(layouts.widerface_source(tmp_path / "nowhere"), "val")


def test_a_missing_annotation_is_an_error(tmp_path):
    with pytest.raises(DatasetError, match="annotation is not there"):
        widerface.read(layouts.widerface_source(tmp_path), "val")


def test_one_split_is_enough_and_the_other_is_named(tmp_path):
    source = layouts.write_widerface(tmp_path, [("a/1.jpg", [])])
    assert widerface.missing_splits(source) == {"train": "wider_face_split/wider_face_train_bbx_gt.txt"}


def test_an_annotation_without_its_images_is_a_missing_split_unless_images_are_not_needed(tmp_path):
    source = layouts.write_widerface(tmp_path, [("a/1.jpg", [])])
    layouts.write_annotation(tmp_path, layouts.widerface_text([("a/2.jpg", [])]).encode(), "train")
    assert widerface.missing_splits(source) == {"train": "WIDER_train/images"}
    assert widerface.missing_splits(source, without_images=True) == {}


def test_no_split_at_all_is_an_error(tmp_path):
    with pytest.raises(DatasetError, match="holds no split"):
        widerface.missing_splits(layouts.widerface_source(tmp_path))
