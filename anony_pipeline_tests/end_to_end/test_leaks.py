"""The search for leaks must find what is planted, however it is wrapped, and nothing where nothing is."""

import base64
import gzip
import json
import sqlite3

import cv2
import numpy as np
import pytest
from safetensors.numpy import save_file

from anony_pipeline_tests.end_to_end import leaks
from anony_pipeline_tests.end_to_end.leaks import Secrets, walk

RNG = np.random.default_rng(0)


def texture(height, width, rng=RNG):
    """Something as smooth and as different from all else as a face or a plate."""
    coarse = rng.uniform(0, 255, (height // 6, width // 6, 3)).astype(np.float32)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).clip(0, 255).astype(np.uint8)


def unit(count, width=512):
    vectors = RNG.normal(size=(count, width)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


SECRETS = Secrets([texture(60, 54), texture(36, 108)], [unit(5)], {"AB-123-CD", "X1"})


def encoded(picture_rgb, suffix=".jpg"):
    return cv2.imencode(suffix, picture_rgb[..., ::-1])[1].tobytes()


def page(region, scale):
    """A contact sheet with one region among others, resized."""
    sheet = texture(90, 192, np.random.default_rng(9))
    height, width = (round(scale * edge) for edge in region.shape[:2])
    sheet[20 : 20 + height, 10 : 10 + width] = cv2.resize(region, (width, height), interpolation=cv2.INTER_AREA)
    return sheet


def database(path, value):
    with sqlite3.connect(path) as base:
        base.execute("create table event_logs (event text)")
        base.execute("insert into event_logs values (?)", (value,))
    base.close()


def uri(picture_rgb):
    return f"![x](data:image/jpeg;base64,{base64.b64encode(encoded(picture_rgb)).decode()})"


FACE, PLATE = SECRETS.regions_rgb
EMBEDDING = SECRETS.embeddings[0][3]
PIXELS, VECTOR, TEXT = "pixels of region", "embedding 3", "text AB-123-CD"

PLANTS = {
    "a crop": (lambda p: (p / "a.png").write_bytes(encoded(FACE, ".png")), f"{PIXELS} 0"),
    "a smaller crop in a sheet": (lambda p: (p / "a.jpg").write_bytes(encoded(page(FACE, 0.7))), f"{PIXELS} 0"),
    "a larger plate in a sheet": (
        lambda p: (p / "a.webp").write_bytes(encoded(page(PLATE, 1.6), ".webp")),
        f"{PIXELS} 1",
    ),
    "a picture in a page": (lambda p: (p / "a.html").write_text(f"<p>{uri(page(FACE, 1))}</p>"), f"{PIXELS} 0"),
    "a picture in a database": (lambda p: database(p / "a.db", uri(page(PLATE, 1))), f"{PIXELS} 1"),
    "a picture in a record file": (
        lambda p: (p / "events.out").write_bytes(b"\x08\x01" * 99 + encoded(page(FACE, 1), ".png") + b"\x12" * 99),
        f"{PIXELS} 0",
    ),
    "an array of pictures": (
        lambda p: np.savez_compressed(p / "a.npz", x=np.stack([page(FACE, 1)] * 2)),
        f"{PIXELS} 0",
    ),
    "a tensor of pictures": (
        lambda p: save_file(
            {"x": np.ascontiguousarray(page(PLATE, 1).transpose(2, 0, 1)[None] / 127.5 - 1, np.float32)},
            p / "a.safetensors",
        ),
        f"{PIXELS} 1",
    ),
    "an embedding in JSON": (
        lambda p: (p / "a.json").write_text(json.dumps({"who": [round(float(v), 4) for v in EMBEDDING]})),
        VECTOR,
    ),
    "an embedding in a table": (
        lambda p: (p / "a.csv").write_text("7," + ",".join(f"{v:.6f}" for v in EMBEDDING)),
        VECTOR,
    ),
    "embeddings in an array": (lambda p: np.save(p / "a.npy", 3 * SECRETS.embeddings[0][3:4]), VECTOR),
    "an embedding amid weights": (
        lambda p: save_file(
            {"w": np.concatenate([RNG.normal(size=999).astype(np.float32), EMBEDDING])}, p / "a.safetensors"
        ),
        VECTOR,
    ),
    "a half-precision embedding": (
        lambda p: (p / "a.bin").write_bytes(b"\0\1\2" + EMBEDDING.astype(np.float16).tobytes()),
        VECTOR,
    ),
    "a serial in a log": (lambda p: (p / "a.log").write_text("read 'ab 123 cd' with 0.9"), TEXT),
    "a serial in a database": (lambda p: database(p / "a.db", '{"serial": "AB123CD"}'), TEXT),
    "a serial in an archive": (lambda p: (p / "a.gz").write_bytes(gzip.compress(b"x" * 500 + b"AB123CD")), TEXT),
}


@pytest.mark.parametrize("plant", PLANTS)
def test_what_is_planted_is_found(tmp_path, plant):
    write, what = PLANTS[plant]
    write(tmp_path)
    assert {leak.what for leak in walk(tmp_path, SECRETS)} == {what}


def test_other_pictures_vectors_and_texts_are_no_leaks(tmp_path):
    rng = np.random.default_rng(5)
    (tmp_path / "a.png").write_bytes(encoded(texture(200, 300, rng), ".png"))
    np.save(tmp_path / "a.npy", unit(20))
    save_file({"w": RNG.normal(size=(512, 512)).astype(np.float32) / 20}, tmp_path / "w.safetensors")
    (tmp_path / "a.txt").write_text("X1 AB-123-CE " + " ".join(str(v) for v in RNG.normal(size=2000)))
    (tmp_path / "empty").touch()
    assert walk(tmp_path, SECRETS) == []


def test_private_folders_may_hold_pixels_and_neither_embeddings_nor_texts(tmp_path):
    closed = tmp_path / "private"
    closed.mkdir()
    (closed / "a.png").write_bytes(encoded(FACE, ".png"))
    assert walk(tmp_path, SECRETS, private=(closed,)) == []
    np.save(closed / "a.npy", SECRETS.embeddings[0])
    (closed / "a.txt").write_text("AB 123 CD")
    assert {leak.what.split()[0] for leak in walk(tmp_path, SECRETS, private=(closed,))} == {"embedding", "text"}


def test_an_anonymized_picture_is_no_leak_and_one_with_a_region_left_is(tmp_path):
    street = texture(120, 240, np.random.default_rng(9))
    regions = [street[10:70, 50:104].copy(), street[75:111, 120:228].copy()]
    street[10:70, 50:104] = texture(60, 54, np.random.default_rng(3))
    street[75:111, 120:228] = 96
    (tmp_path / "a.png").write_bytes(encoded(street, ".png"))
    secrets = Secrets(regions)
    assert walk(tmp_path, secrets) == []
    street[75:111, 120:228] = regions[1]
    (tmp_path / "a.png").write_bytes(encoded(street, ".png"))
    assert [leak.what for leak in walk(tmp_path, secrets)] == ["pixels of region 1"]


def test_low_regions_are_not_looked_for():
    assert leaks.Pictures([texture(18, 18), np.full((60, 60, 3), 9, np.uint8)]).kernels == {}
