"""Near-duplicates: what is the same picture is found, what isn't is not."""

import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from anony_pipeline.datasets import similarity
from anony_pipeline.datasets.coco import CocoSet
from anony_pipeline.errors import MediaError
from anony_pipeline_tests.datasets import layouts


def set_of(folder, pictures):
    folder.mkdir()
    for name, image in pictures.items():
        image.save(folder / name, quality=90)
    return CocoSet(folder / "u.json", {}, [{"id": i, "file_name": name} for i, name in enumerate(pictures)], [])


def scene(seed, width=320, height=240):
    return Image.open(io.BytesIO(layouts.picture(width, height, ".png", seed=seed)))


CHANGES = {
    "same": lambda image: image,
    "smaller": lambda image: image.resize((160, 120)),
    "compressed": lambda image: Image.open(io.BytesIO(jpeg(image, 15))),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.15),
    "gray": lambda image: image.convert("L").convert("RGB"),
    "noisy": lambda image: Image.fromarray(
        np.clip(np.asarray(image) + np.random.default_rng(0).normal(0, 8, (240, 320, 3)), 0, 255).astype(np.uint8)
    ),
    "next frame": lambda image: image.transform(image.size, Image.Transform.AFFINE, (1, 0, 2, 0, 1, 1)),
}


def jpeg(image, quality):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_picture_is_found_among_others(tmp_path, change):
    train = set_of(tmp_path / "train", {f"{i}.jpg": scene(i) for i in range(8)})
    val = set_of(
        tmp_path / "val", {"other.jpg": scene(100), "copy.jpg": CHANGES[change](scene(5)), "new.jpg": scene(101)}
    )
    (pair,) = similarity.near_duplicates(train, val)
    assert (pair.train["file_name"], pair.val["file_name"]) == ("5.jpg", "copy.jpg")
    assert "5.jpg (train) and copy.jpg (val)" in str(pair)


def test_other_pictures_are_not_found_dull_ones_neither(tmp_path):
    dull = {f"{level}.jpg": Image.fromarray(ramp(level)) for level in range(4)}
    train = set_of(tmp_path / "train", {**{f"{i}.jpg": scene(i) for i in range(10, 22)}, "0.jpg": dull["0.jpg"]})
    val = set_of(tmp_path / "val", {**{f"{i}.jpg": scene(i) for i in range(50, 62)}, "2.jpg": dull["2.jpg"]})
    assert similarity.near_duplicates(train, val) == []


def ramp(level):
    """A gray ramp to the right (all of them share one hash) with a bright half of its own."""
    image = np.tile(np.linspace(10, 60, 320), (240, 1))
    image[60 * level : 60 * level + 60] += 150
    return np.repeat(image[..., None], 3, axis=2).astype(np.uint8)


def test_bits_are_counted_as_python_counts_them():
    codes = np.random.default_rng(0).integers(0, 1 << 63, (2, 20), dtype=np.uint64)
    counted = similarity._differing_bits(codes[0][:, None], codes[1][None, :])
    assert counted.tolist() == [[(int(a) ^ int(b)).bit_count() for b in codes[1]] for a in codes[0]]


def test_an_empty_split_has_no_duplicates(tmp_path):
    assert similarity.near_duplicates(set_of(tmp_path / "a", {}), set_of(tmp_path / "b", {"1.jpg": scene(1)})) == []


def test_an_image_that_was_damaged_since_is_named(tmp_path):
    train, val = (set_of(tmp_path / name, {"1.jpg": scene(1)}) for name in ("train", "val"))
    (tmp_path / "val/1.jpg").write_bytes(b"\xff\xd8 no image")
    with pytest.raises(MediaError, match=r"val/1\.jpg"):
        similarity.near_duplicates(train, val)
