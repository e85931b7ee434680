"""Small data sets in the two layouts, written for tests."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from anony_pipeline.config.schema import Data, Source, Splits

ATTRIBUTES = (0, 1, 0, 0, 2, 1)


def picture(width=40, height=30, suffix=".jpg", seed=0, orientation=None):
    """The bytes of an image file of smooth random content."""
    cells = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    image = Image.fromarray(cells).resize((width, height), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.registered_extensions() or Image.init()
    image.save(buffer, Image.registered_extensions()[suffix], **({"exif": exif} if orientation is not None else {}))
    return buffer.getvalue()


def widerface_text(images, newline="\n"):
    """The annotation of ``[(name, [row of ten numbers, ...]), ...]`` as the official files write it."""
    lines = []
    for name, rows in images:
        lines += [name, str(len(rows))]
        lines += [" ".join(str(value) for value in row) + " " for row in rows or [[0] * 10]]
    return newline.join(lines) + newline


def write_widerface(root, images, split="val", size=(40, 30)):
    """A split of WIDERFace with its image files; returns its source."""
    for number, (name, _) in enumerate(images):
        path = root / f"WIDER_{split}/images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(*size, seed=number))
    write_annotation(root, widerface_text(images).encode(), split)
    return widerface_source(root)


def write_annotation(root, data, split="val"):
    path = root / f"wider_face_split/wider_face_{split}_bbx_gt.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def widerface_source(root, **changes):
    return Source(**{"name": "widerface", "layout": "widerface", "root": str(root), "exhaustive": ("face",), **changes})


def write_pp4av(root, annotations, size=(200, 100), suffix=".jpg"):
    """PP4AV of ``{"group/name": text or None for no file}``; returns its source."""
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    for number, (name, text) in enumerate(annotations.items()):
        image = root / "images" / f"{name}{suffix}"
        image.parent.mkdir(parents=True, exist_ok=True)
        image.write_bytes(picture(*size, suffix=suffix, seed=1000 + number))
        if text is not None:
            file = root / "annotations" / f"{name}.txt"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(text.encode())
    return pp4av_source(root)


def pp4av_source(root, **changes):
    labeled = ("face", "license_plate")
    return Source(**{"name": "pp4av", "layout": "pp4av", "root": str(root), "exhaustive": labeled, **changes})


def data(*sources, **changes):
    """A `Data` that tolerates bad files, so that single ones can be looked at."""
    splits = changes.pop("splits", Splits())
    return Data(**{"sources": sources, "splits": splits, "max_bad_share": 1.0, **changes})


def below(folder: Path):
    """All files below a folder with their bytes."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
