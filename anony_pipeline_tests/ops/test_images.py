"""Images are read upright and whole, or refused by name."""

import io
import stat

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from torch.utils._python_dispatch import TorchDispatchMode
from upath import UPath

from anony_pipeline.errors import MediaError
from anony_pipeline.ops import images, jpegs


def picture(height=24, width=40, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif"])
def test_a_lossless_file_gives_the_same_pixels_back(tmp_path, suffix):
    images.write(tmp_path / f"a{suffix}", picture())
    np.testing.assert_array_equal(images.read(tmp_path / f"a{suffix}"), picture())


def test_red_is_the_first_channel_as_pillow_has_it(tmp_path):
    red = np.zeros((8, 8, 3), np.uint8)
    red[..., 0] = 255
    images.write(tmp_path / "a.png", red)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.png")), red)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_upright_as_pillow_turns_them(tmp_path, orientation):
    flat = np.zeros((16, 32, 3), np.uint8)
    flat[:8, :8] = 255
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(flat).save(tmp_path / "a.jpg", exif=exif, quality=100, subsampling=0)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / "a.jpg")))
    found = images.read(tmp_path / "a.jpg")
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).max() <= 8


def test_written_images_carry_no_metadata(tmp_path):
    images.write(tmp_path / "a.jpg", picture())
    assert not Image.open(tmp_path / "a.jpg").getexif()


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "I;16"])
def test_other_color_modes_become_three_channels_of_eight_bits(tmp_path, mode):
    base = Image.fromarray(picture()).convert("L")
    made = Image.fromarray(np.asarray(base).astype(np.uint16) * 257) if mode == "I;16" else base.convert(mode)
    made.save(tmp_path / "a.png")
    found = images.read(tmp_path / "a.png")
    assert found.shape == (24, 40, 3)
    assert found.dtype == np.uint8


def test_a_missing_image_is_named(tmp_path):
    with pytest.raises(MediaError, match=r"can't be read\n.*none\.png\n.*FileNotFoundError"):
        images.read(tmp_path / "none.png")


def test_an_empty_file_is_refused(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"")
    with pytest.raises(MediaError, match="is empty"):
        images.read(tmp_path / "a.jpg")


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_a_truncated_jpeg_is_refused_and_not_filled_with_gray(tmp_path, share):
    buffer = io.BytesIO()
    Image.fromarray(picture(200, 300)).save(buffer, "JPEG", quality=95)
    (tmp_path / "a.jpg").write_bytes(buffer.getvalue()[: int(share * len(buffer.getvalue()))])
    with pytest.raises(MediaError, match=r"truncated\n.*a\.jpg"):
        images.read(tmp_path / "a.jpg")


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_tiff_whose_further_directory_is_damaged_is_left_to_the_decoder():
    buffer = io.BytesIO()
    Image.fromarray(picture()).save(buffer, "TIFF")
    data = bytearray(buffer.getvalue())
    end = int.from_bytes(data[4:8], "little")
    end += 2 + 12 * int.from_bytes(data[end : end + 2], "little")
    data[end : end + 4] = (2).to_bytes(4, "little")  # where a second directory would lie, which is none
    assert np.array_equal(images.decode(bytes(data), "a.tif"), images.decode(buffer.getvalue()))


def jpeg(**options):
    buffer = io.BytesIO()
    Image.fromarray(picture(200, 300)).save(buffer, "JPEG", quality=95, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 2}], ids=str)
def test_a_jpeg_is_whole_at_its_end_marker_and_not_a_byte_before(options):
    data = jpeg(**options)
    assert jpegs.is_whole(data)
    assert jpegs.is_whole(data[:2] + b"\xff\xff\x00\x00" + data[2:])  # filling, and bytes of nothing
    assert not any(jpegs.is_whole(data[:length]) for length in range(2, len(data), 97))
    assert not jpegs.is_whole(data[:-1])


def test_a_video_behind_a_jpeg_does_not_make_it_truncated():
    # Longer than any tail that could be searched for the marker.
    assert np.array_equal(images.decode(jpeg() + bytes(100_000)), images.decode(jpeg()))


def test_the_end_of_a_thumbnail_is_not_that_of_its_picture():
    thumbnail, data = jpeg()[:2] + jpeg()[-2:], jpeg()
    segment = b"\xff\xe1" + (len(thumbnail) + 8).to_bytes(2, "big") + b"Exif\x00\x00" + thumbnail
    whole = data[:2] + segment + data[2:]
    assert jpegs.is_whole(whole)
    with pytest.raises(MediaError, match="truncated"):
        images.decode(whole[: 2 + len(segment) + 900])


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif"])
def test_what_was_erased_by_transparency_stays_erased(tmp_path, suffix):
    opaque, path = picture(), tmp_path / f"a{suffix}"
    alpha = np.full(opaque.shape[:2], 255, np.uint8)
    alpha[4:12, 8:20] = 0
    options = {"lossless": True, "exact": True} if suffix == ".webp" else {}
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(np.dstack([opaque, alpha])).save(path, exif=exif, **options)
    with Image.open(path) as hidden:
        colors = np.asarray(hidden.convert("RGB"))
    assert np.array_equal(np.sort(colors, axis=None), np.sort(opaque, axis=None)), "there must be colors to hide"
    expected = np.where(alpha[..., None] == 0, 255, opaque)
    assert np.array_equal(images.read(path), np.rot90(expected, -1))


@pytest.mark.parametrize(("suffix", "options"), [(".tif", {}), (".png", {}), (".webp", {"lossless": True})])
def test_several_pictures_in_a_file_are_refused_for_all_but_one_would_be_lost(tmp_path, suffix, options):
    path = tmp_path / f"a{suffix}"
    first, second = (Image.fromarray(picture() // part) for part in (1, 2))
    first.save(path, save_all=True, append_images=[second], **options)
    with pytest.raises(MediaError, match=r"several pictures[\s\S]*2 pages or frames"):
        images.read(path)


@pytest.mark.parametrize("share", [0.3, 0.6])
def test_a_truncated_png_is_refused(tmp_path, share):
    buffer = io.BytesIO()
    Image.fromarray(picture(200, 300)).save(buffer, "PNG")
    (tmp_path / "a.png").write_bytes(buffer.getvalue()[: int(share * len(buffer.getvalue()))])
    with pytest.raises(MediaError, match=r"a\.png"):
        images.read(tmp_path / "a.png")


@pytest.mark.parametrize("data", [b"hello", b"\x00" * 100, b"\x89PNG\r\n\x1a\n"], ids=["text", "zeros", "only a head"])
def test_what_is_no_image_is_refused(tmp_path, data):
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(MediaError, match=r"a\.png"):
        images.read(tmp_path / "a.png")


def test_an_unknown_suffix_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(MediaError, match=r"unknown image format(.|\n)*\.jpg"):
        images.write(tmp_path / "a.gif", picture())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("suffix", "width"), [(".jpg", 70_000), (".webp", 20_000)])
def test_an_image_that_its_format_has_no_place_for_is_refused_before_anything_is_written(tmp_path, suffix, width):
    with pytest.raises(MediaError, match=rf"can't be encoded(.|\n)*{width} x 1 px(.|\n)*65,500"):
        images.write(tmp_path / f"a{suffix}", np.zeros((1, width, 3), np.uint8))
    assert not list(tmp_path.iterdir())


def test_a_disk_that_refuses_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(MediaError, match="can't be written"):
        images.write(tmp_path / "file" / "a.png", picture())


def test_private_images_are_their_owners_alone(tmp_path):
    images.write(tmp_path / "a.png", picture(), mode=0o600)
    assert stat.S_IMODE((tmp_path / "a.png").stat().st_mode) == 0o600


def test_images_of_a_remote_store_are_read_and_written():
    images.write(UPath("memory://images/a.png"), picture())
    np.testing.assert_array_equal(images.read(UPath("memory://images/a.png")), picture())


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.sampled_from(["-1..1", "0..1"]))
def test_tensors_and_images_undo_each_other(height, width, value_range):
    first, second = picture(height, width, 1), picture(height, width, 2)
    tensor = images.to_tensor([first, second], value_range)
    assert tensor.shape == (2, 3, height, width)
    assert tensor.dtype == torch.float32
    low, high = (-1, 1) if value_range == "-1..1" else (0, 1)
    assert tensor.min() >= low
    assert tensor.max() <= high
    back = images.to_images(tensor, value_range)
    np.testing.assert_array_equal(np.stack(back), np.stack([first, second]))


def test_bytes_travel_to_a_device_and_become_floats_there():
    traveled = []

    class Travels(TorchDispatchMode):
        def __torch_dispatch__(self, operation, types, given=(), named=None):
            made = operation(*given, **(named or {}))
            if isinstance(made, torch.Tensor) and made.device.type == "meta" and given[0].device.type == "cpu":
                traveled.append(given[0].dtype)
            return made

    with Travels():
        tensor = images.to_tensor([picture(), picture()], device="meta")
    assert (tensor.device.type, tensor.dtype, tensor.shape) == ("meta", torch.float32, (2, 3, 24, 40))
    assert traveled == [torch.uint8]


def test_values_outside_the_range_are_clipped():
    assert images.to_images(torch.tensor([[[[-9.0]], [[9.0]], [[0.0]]]]))[0].tolist() == [[[0, 255, 128]]]


def test_making_smaller_averages_and_does_not_alias():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    small = images.resize(stripes, (16, 16))
    assert small.shape == (16, 16, 3)
    assert np.ptp(small) <= 2
