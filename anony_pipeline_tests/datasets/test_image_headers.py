"""Sizes from headers: compared with what decoding gives."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from upath import UPath

from anony_pipeline.datasets import image_headers
from anony_pipeline.errors import MediaError
from anony_pipeline.ops import images
from anony_pipeline_tests.datasets import layouts

SUFFIXES = [".jpg", ".png", ".webp", ".bmp", ".tif"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_size_is_that_of_the_decoded_image(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(layouts.picture(41, 27, suffix))
    assert image_headers.upright_size(path) == images.read(path).shape[1::-1] == (41, 27)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
def test_a_turned_image_has_the_size_that_it_is_read_with(tmp_path, suffix, orientation):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(layouts.picture(41, 27, suffix, orientation=orientation))
    assert image_headers.upright_size(path) == images.read(path).shape[1::-1]


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp"])
@pytest.mark.parametrize("kept", [0.5, 0.9, 0.999])
def test_a_truncated_image_is_refused(tmp_path, suffix, kept):
    path = tmp_path / f"a{suffix}"
    whole = layouts.picture(200, 200, suffix)
    path.write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(MediaError, match=r"truncated|no image"):
        image_headers.upright_size(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_lies_behind_an_image_does_not_make_it_truncated(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(layouts.picture(41, 27, suffix) + bytes(100_000))  # telephones put a short video there
    assert image_headers.upright_size(path) == images.read(path).shape[1::-1] == (41, 27)


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif"])
def test_a_file_of_several_pictures_is_refused_as_reading_it_is(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    pages = [Image.new("RGB", (41, 27), (80 * i, 9, 9)) for i in range(3)]
    pages[0].save(path, save_all=True, append_images=pages[1:])
    for read in (image_headers.upright_size, images.read):
        with pytest.raises(MediaError, match=r"several pictures(.|\n)*3 pages or frames"):
            read(path)


@pytest.mark.parametrize(("mode", "fits"), [("F", False), ("I", False), ("I;16", True), ("L", True), ("1", True)])
def test_a_tiff_is_refused_by_its_bits_if_reading_would_refuse_it(tmp_path, mode, fits):
    path = tmp_path / "a.tif"
    Image.new(mode, (41, 27)).save(path)
    if fits:
        assert image_headers.upright_size(path) == images.read(path).shape[1::-1]
        return
    with pytest.raises(MediaError, match="32 bits"):
        image_headers.upright_size(path)
    with pytest.raises(MediaError):
        images.read(path)


def test_the_end_of_a_thumbnail_is_not_that_of_its_picture(tmp_path):
    path, whole = tmp_path / "a.jpg", layouts.picture(400, 400)
    thumbnail = b"Exif\0\0" + layouts.picture(8, 6)
    begun = whole[:2] + b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail + whole[2:]
    path.write_bytes(begun[:-900])
    with pytest.raises(MediaError, match="truncated"):
        image_headers.upright_size(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "is empty"), (b"<html>404</html>", "no image"), (b"\xff\xd8\xff\xd9", "no image")],
    ids=["0 bytes", "a web page", "only markers"],
)
def test_what_is_no_image_is_refused(tmp_path, content, message):
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    with pytest.raises(MediaError, match=message):
        image_headers.upright_size(path)


@pytest.mark.parametrize("cached", [False, True])
def test_a_missing_image_is_said_to_be_missing(tmp_path, cached):
    cache = tmp_path / "cache" if cached else None
    for path in (tmp_path / "a.jpg", UPath(f"memory://{tmp_path.name}/a.jpg")):
        with pytest.raises(MediaError, match="image is not there"):
            image_headers.upright_size(path, cache)


def test_a_folder_in_the_place_of_an_image_is_refused(tmp_path):
    with pytest.raises(MediaError, match="can't be read"):
        image_headers.upright_size(tmp_path)


def test_a_remote_image_is_kept_in_the_cache(tmp_path):
    path = UPath(f"memory://{tmp_path.name}/ride.mp4#t=1.jpg")
    path.parent.mkdir(parents=True)
    path.write_bytes(layouts.picture(41, 27))
    assert image_headers.upright_size(path) == (41, 27)
    assert image_headers.upright_size(path, tmp_path / "cache") == (41, 27)
    assert [file.name.partition("-")[2] for file in (tmp_path / "cache").iterdir()] == ["ride.mp4#t=1.jpg"]


@pytest.mark.filterwarnings("ignore::UserWarning")
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from([".jpg", ".png", ".webp", ".tif"]),
    st.dictionaries(st.integers(0, 300), st.integers(0, 255), max_size=6),
)
def test_damaged_bytes_give_a_size_or_a_media_error_and_nothing_else(tmp_path, suffix, damage):
    content = bytearray(layouts.picture(41, 27, suffix, orientation=6))
    for position, value in damage.items():
        content[position % len(content)] = value
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    try:
        width, height = image_headers.upright_size(path)
    except MediaError:
        return
    assert width > 0
    assert height > 0
