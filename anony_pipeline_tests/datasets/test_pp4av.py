"""PP4AV: rows, names, the two box formats, and every way in which a file can be wrong."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from upath import UPath

from anony_pipeline.datasets import pp4av
from anony_pipeline.errors import DatasetError
from anony_pipeline.structures.regions import Kind
from anony_pipeline_tests.datasets import layouts

ROW = "1 0.5 0.5 0.1 0.05"
# The rows of the data set's card, which only make sense as corners (`facts/field.md`).
CORNERS = "0 0.230078 0.317081 0.239062 0.331367\n1 0.5017185 0.0306425 0.5185935 0.0410975\n"


def shares(low, high):
    return st.floats(low, high, allow_nan=False).map(lambda value: round(value, 6))


@st.composite
def rows(draw):
    width, height = draw(shares(0.001, 0.2)), draw(shares(0.001, 0.2))
    return draw(st.sampled_from([0, 1])), draw(shares(0.2, 0.9)), draw(shares(0.2, 0.9)), width, height


@settings(max_examples=30, deadline=None)
@given(
    boxes=st.dictionaries(st.integers(0, 99), st.lists(rows(), max_size=4), min_size=1, max_size=5),
    box_format=st.sampled_from(["xywh", "xyxy"]),
    newline=st.sampled_from(["\n", "\r\n", "  \n\n"]),
)
def test_what_was_written_is_read(tmp_path_factory, boxes, box_format, newline):
    texts, expected = {}, {}
    for number, rows_of_image in sorted(boxes.items()):
        lines, wanted = [], []
        for kind, x, y, width, height in rows_of_image:
            corners = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
            values = corners if box_format == "xyxy" else (x, y, width, height)
            lines.append(" ".join([str(kind), *(repr(value) for value in values)]) + newline)
            wanted.append((kind, *(pytest.approx(v, abs=1e-12) for v in (corners[0], corners[1], width, height))))
        texts[f"paris/frame_{number}"], expected[f"images/paris/frame_{number}.png"] = "".join(lines), wanted
    root = tmp_path_factory.mktemp("pp4av")
    source = layouts.write_pp4av(root, texts, size=(4, 4), suffix=".png")
    result = pp4av.read(layouts.pp4av_source(source.root, box_format=box_format))
    kinds = {Kind.FACE: 0, Kind.PLATE: 1}
    found = {image.file_name: [(kinds[box.kind], *box.box_xywh) for box in image.boxes] for image in result.images}
    assert found == expected
    assert list(found) == list(expected)  # frame 9 before frame 10
    assert not result.problems


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ("1 0.5 0.5 0.1", "too few numbers"),
        ("1 0.5 0.5 0.1 0.05 0.9", "too many numbers"),
        ("2 0.5 0.5 0.1 0.05", "class is unknown"),
        ("-1 0.5 0.5 0.1 0.05", "class is unknown"),
        ("1 0.5 nan 0.1 0.05", "no finite number"),
        ("plate 0.5 0.5 0.1 0.05", "no finite number"),
        ("1 0.5 1.2 0.1 0.05", "from 0 to 1"),
        ("1 0.5 0.5 -0.1 0.05", "from 0 to 1"),
        ("1 320 240 20 10", "from 0 to 1"),
    ],
    ids=["few", "many", "class", "negative class", "nan", "word", "outside", "negative", "pixels"],
)
def test_a_bad_row_is_named_with_its_line_and_the_others_stay(tmp_path, row, what):
    result = pp4av.read(layouts.write_pp4av(tmp_path, {"paris/1": f"{ROW}\n\n{row}\n"}))
    (problem,) = result.problems
    assert (problem.scope, problem.where) == ("row", "annotations/paris/1.txt:3")
    assert what in problem.what
    assert problem.got == row
    assert len(result.images[0].boxes) == 1
    assert result.images[0].unsure == {Kind.FACE, Kind.PLATE}


def test_a_box_without_area_is_dropped_and_counted(tmp_path):
    result = pp4av.read(layouts.write_pp4av(tmp_path, {"paris/1": f"1 0.5 0.5 0 0.1\n{ROW}\n"}))
    assert (result.dropped, len(result.images[0].boxes)) == (1, 1)


def test_an_empty_file_is_an_image_without_boxes_and_a_missing_one_is_a_problem(tmp_path):
    result = pp4av.read(layouts.write_pp4av(tmp_path, {"paris/1": "", "paris/2": None, "paris/3": ROW}))
    assert [(image.file_name, len(image.boxes)) for image in result.images] == [
        ("images/paris/1.jpg", 0),
        ("images/paris/3.jpg", 1),
    ]
    (problem,) = result.problems
    assert (problem.scope, problem.where, problem.got) == ("image", "images/paris/2.jpg", "annotations/paris/2.txt")


def test_an_annotation_without_its_image_is_a_problem(tmp_path):
    source = layouts.write_pp4av(tmp_path, {"paris/1": ROW, "paris/2": ROW})
    (tmp_path / "images/paris/2.jpg").unlink()
    (problem,) = pp4av.read(source).problems
    assert (problem.scope, problem.where) == ("image", "annotations/paris/2.txt")


def test_two_images_that_share_one_annotation_are_a_problem(tmp_path):
    source = layouts.write_pp4av(tmp_path, {"paris/1": ROW})
    (tmp_path / "images/paris/1.png").write_bytes(layouts.picture(suffix=".png"))
    result = pp4av.read(source)
    assert [problem.where for problem in result.problems] == ["images/paris/1.png"]
    assert len(result.images) == 1


def test_other_files_are_noted_and_hidden_ones_are_not(tmp_path):
    source = layouts.write_pp4av(tmp_path, {"paris/1": ROW})
    (tmp_path / "images/paris/Thumbs.db").write_bytes(b"x")
    (tmp_path / "images/paris/.DS_Store").write_bytes(b"x")
    assert [(problem.scope, problem.where) for problem in pp4av.read(source).problems] == [
        ("note", "images/paris/Thumbs.db")
    ]


def test_an_annotation_that_is_no_text_is_a_problem_of_its_image(tmp_path):
    source = layouts.write_pp4av(tmp_path, {"paris/1": ROW, "paris/2": ROW})
    (tmp_path / "annotations/paris/2.txt").write_bytes(b"\xff\xfe1\x00")
    result = pp4av.read(source)
    assert [(problem.scope, problem.where) for problem in result.problems] == [("image", "annotations/paris/2.txt")]
    assert len(result.images) == 1


@pytest.mark.parametrize("prefix", ["", "\ufeff"], ids=["plain", "byte order mark"])
def test_the_card_s_rows_are_recognized_as_corners(tmp_path, prefix):
    source = layouts.write_pp4av(tmp_path, {"paris/1": prefix + CORNERS})
    with pytest.raises(DatasetError, match=r"look like corners(.|\n)*box_format: xyxy"):
        pp4av.read(source)
    (image,) = pp4av.read(layouts.pp4av_source(source.root, box_format="xyxy")).images
    assert image.boxes[0].box_xywh == pytest.approx((0.230078, 0.317081, 0.008984, 0.014286))


def test_center_and_size_read_as_corners_are_refused(tmp_path):
    source = layouts.write_pp4av(tmp_path, {"paris/1": f"{ROW}\n{ROW}\n"})
    with pytest.raises(DatasetError, match="look like center and size"):
        pp4av.read(layouts.pp4av_source(source.root, box_format="xyxy"))


def test_a_corner_row_that_is_turned_inside_out_is_a_problem(tmp_path):
    source = layouts.write_pp4av(tmp_path, {"paris/1": CORNERS + "1 0.5 0.5 0.4 0.6\n"})
    result = pp4av.read(layouts.pp4av_source(source.root, box_format="xyxy"))
    assert [(problem.scope, problem.where) for problem in result.problems] == [("row", "annotations/paris/1.txt:3")]


@pytest.mark.parametrize(
    "row", ["0 0.02 0.02 0.03 0.03", "1 0.06 0.05 0.08 0.06"], ids=["in the corner", "touching the corner"]
)
def test_a_true_box_in_the_upper_left_corner_is_not_taken_for_corners(tmp_path, row):
    assert len(pp4av.read(layouts.write_pp4av(tmp_path, {"paris/1": row})).images[0].boxes) == 1


@settings(max_examples=50, deadline=None)
@given(st.lists(rows(), min_size=8, max_size=20))
def test_any_plausible_set_of_true_boxes_is_accepted_and_its_corners_are_recognized(boxes):
    source = layouts.pp4av_source("anywhere")
    true = [pp4av._Row(1, Kind.FACE, box[1:]) for box in boxes]
    corners = [(x - w / 2, y - h / 2, x + w / 2, y + h / 2) for _, x, y, w, h in boxes]
    pp4av._refuse_other_format(source, UPath("r"), true)
    with pytest.raises(DatasetError, match="look like corners"):
        pp4av._refuse_other_format(source, UPath("r"), [pp4av._Row(1, Kind.FACE, box) for box in corners])


@pytest.mark.parametrize("scheme", ["local", "memory"])
def test_names_with_a_hash_and_a_time_survive_in_frame_order(tmp_path, scheme):
    root = tmp_path / "a#b" if scheme == "local" else UPath(f"memory://{tmp_path.name}/a#b")
    names = [f"romania/ride_001.mp4#t={second}" for second in (1072, 793, 9)]
    result = pp4av.read(layouts.write_pp4av(root, dict.fromkeys(names, ROW)))
    assert [image.file_name for image in result.images] == [
        f"images/romania/ride_001.mp4#t={second}.jpg" for second in (9, 793, 1072)
    ]
    assert not result.problems
    assert {(image.group, pp4av.video_of(image.file_name)) for image in result.images} == {("romania", "ride_001.mp4")}


@given(st.lists(st.text(max_size=8), max_size=8), st.randoms())
def test_any_names_have_one_natural_order(names, chance):
    shuffled = chance.sample(names, len(names))
    assert sorted(names, key=pp4av.natural_key) == sorted(shuffled, key=pp4av.natural_key)


def test_a_group_that_is_a_link_is_read(tmp_path):
    source = layouts.write_pp4av(tmp_path / "set", {"paris/1": ROW})
    (tmp_path / "set/images/paris").rename(tmp_path / "elsewhere")
    (tmp_path / "set/images/paris").symlink_to(tmp_path / "elsewhere")
    assert len(pp4av.read(source).images) == 1


@pytest.mark.parametrize("missing", ["images", "annotations"])
def test_a_missing_folder_is_an_error(tmp_path, missing):
    source = layouts.write_pp4av(tmp_path, {"paris/1": ROW})
    (tmp_path / missing).rename(tmp_path / "elsewhere")
    with pytest.raises(DatasetError, match=rf"folder of the data set is not there(.|\n)*{missing}"):
        pp4av.read(source)


def test_a_data_set_without_an_image_is_an_error(tmp_path):
    source = layouts.write_pp4av(tmp_path, {"paris/1": ROW})
    (tmp_path / "images/paris/1.jpg").unlink()
    with pytest.raises(DatasetError, match="holds no image"):
        pp4av.read(source)
