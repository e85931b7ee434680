"""Looks into every file that a run left for what must not be there: original pixels, embeddings, read texts.

Files are opened as far as they can be: archives, SQLite tables, base64, pictures inside other files, arrays. What is
looked for is known beforehand, so nothing has to be guessed: the originals' regions, what every judge computes of them,
and what every judge reads in them.
"""

import base64
import binascii
import gzip
import hashlib
import io
import re
import sqlite3
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from safetensors.numpy import load as load_safetensors

LEAST_PX = 24
"""Regions that are lower, in pixels, are not looked for: they show nothing."""
HEIGHT = 16
"""At this height in pixels all regions are looked for at once."""
MOST_ASPECT = 1.5
"""Of a wider region its middle is looked for."""
LOWEST, STEP = 20, 1.12
"""The smallest height in pixels at which a picture's content is compared, and the ratio of one to the next."""
ALIKE, CERTAIN = 0.6, 0.93
"""Normalized correlation from which on a place is looked at closely, and from which on it is the original."""
MIN_TEXT = 5
DEPTH = 4
SQLITE = b"SQLite format 3\0"
MAGIC = re.compile(rb"\xff\xd8\xff[\xc0-\xfe]|\x89PNG\r\n\x1a\n|RIFF....WEBP", re.DOTALL)
BASE64 = re.compile(rb"[A-Za-z0-9+/]{120,}={0,2}")
NUMBER = re.compile(rb"-?\d+\.?\d*(?:[eE][-+]?\d+)?")


@dataclass
class Secrets:
    """What must not be found.

    Attributes:
        regions_rgb: ``(h, w, 3)`` uint8 each: the originals' faces and plates.
        embeddings: ``(N, D)`` of unit length, one array a judge.
        texts: Serials, and what judges read of the originals.
    """

    regions_rgb: list[np.ndarray] = field(default_factory=list)
    embeddings: list[np.ndarray] = field(default_factory=list)
    texts: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Leak:
    """What was found where."""

    file: Path
    what: str
    where: str


def walk(root: Path, secrets: Secrets, private: tuple[Path, ...] = ()) -> list[Leak]:
    """Look into every file below ``root``.

    Args:
        root: What the run left.
        secrets: What must not be there.
        private: Folders in which original pixels may be; embeddings and read texts may not, even there.
    """
    pictures = Pictures(secrets.regions_rgb)
    texts = {_plain(text.encode()): text for text in secrets.texts if len(_plain(text.encode())) >= MIN_TEXT}
    found, shown = [], dict[bytes, list[int]]()
    for file in sorted(path for path in root.rglob("*") if path.is_file() and not path.is_symlink()):
        closed = any(folder in file.parents for folder in private)
        for name, data in pieces(file):
            plain = _plain(data)
            found += [Leak(file, f"text {text}", name) for key, text in texts.items() if key in plain]
            found += [Leak(file, f"embedding {number}", name) for number in embedded(data, secrets.embeddings)]
            if not closed:
                for picture in pictures_in(data):
                    key = hashlib.sha256(picture.tobytes()).digest()
                    shown[key] = shown[key] if key in shown else pictures.shown(picture)
                    found += [Leak(file, f"pixels of region {number}", name) for number in shown[key]]
    return found


def pieces(file: Path) -> Iterator[tuple[str, bytes]]:
    """A file's bytes, and those of whatever is inside: members of archives, cells of tables, base64."""
    data = file.read_bytes()
    if data.startswith(SQLITE):
        yield from ((name, cell) for name, value in _cells(file) for _, cell in _inside(value, DEPTH))
        return
    yield from ((name, part) for name, part in _inside(data, DEPTH))


def _inside(data: bytes, depth: int) -> Iterator[tuple[str, bytes]]:
    yield "as it is", data
    if not depth:
        return
    if data[:4] == b"PK\x03\x04":
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for member in archive.namelist():
                yield from ((f"{member}: {n}", part) for n, part in _inside(archive.read(member), depth - 1))
    elif data[:2] == b"\x1f\x8b":
        yield from ((f"gzip: {n}", part) for n, part in _inside(gzip.decompress(data), depth - 1))
    for run in BASE64.finditer(data):
        try:
            decoded = base64.b64decode(run.group().rstrip(b"=") + b"==")
        except binascii.Error:
            continue
        yield from ((f"base64 at {run.start()}: {n}", part) for n, part in _inside(decoded, depth - 1))


def _cells(file: Path) -> Iterator[tuple[str, bytes]]:
    with sqlite3.connect(f"file:{file}?mode=ro", uri=True) as base:
        for (table,) in base.execute("select name from sqlite_master where type = 'table'").fetchall():
            for row in base.execute(f'select * from "{table}"'):
                for value in row:
                    if isinstance(value, str | bytes):
                        yield table, value if isinstance(value, bytes) else value.encode()


def _plain(data: bytes) -> bytes:
    """Letters of one case, without what people put between a serial's groups."""
    return re.sub(rb"[ \-._\xb7]", b"", data.upper())


# Pictures -------------------------------------------------------------------------------------------------------------


def pictures_in(data: bytes) -> Iterator[np.ndarray]:
    """All pictures in some bytes, ``(H, W, 3)`` uint8: files at any place, and arrays that look like pictures."""
    for start in [match.start() for match in MAGIC.finditer(data)] or [0]:
        picture = _decoded(data[start:])
        if picture is not None:
            yield picture
    for array in arrays_in(data):
        yield from _as_pictures(array)


def _decoded(data: bytes) -> np.ndarray | None:
    try:
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    except cv2.error:
        return None
    return None if picture is None else picture[..., ::-1]


def arrays_in(data: bytes) -> list[np.ndarray]:
    """The arrays of a ``.npy`` or safetensors file."""
    if data.startswith(b"\x93NUMPY"):
        return [np.load(io.BytesIO(data), allow_pickle=False)]
    if data[8:9] == b"{" and int.from_bytes(data[:8], "little") < len(data):
        return list(load_safetensors(data).values())
    return []


def _as_pictures(array: np.ndarray) -> Iterator[np.ndarray]:
    if array.ndim not in (3, 4):
        return
    stack = array if array.ndim == 4 else array[None]
    if stack.shape[-1] != 3 and stack.shape[1] == 3:
        stack = stack.transpose(0, 2, 3, 1)
    if stack.shape[-1] != 3 or min(stack.shape[1:3]) < LEAST_PX:
        return
    for picture in stack:
        low, high = float(picture.min()), float(picture.max())
        yield picture if picture.dtype == np.uint8 else np.uint8(255 * (picture - low) / max(high - low, 1e-9))


class Pictures:
    """Finds known regions in pictures, at any place and size: coarsely by all at once, then each hit closely."""

    def __init__(self, regions_rgb: list[np.ndarray]) -> None:
        self.regions = {
            number: _gray(_middle(region))
            for number, region in enumerate(regions_rgb)
            if region.shape[0] >= LEAST_PX and region.std() > 10
        }
        self.kernels = {number: _unit(_sized(region, HEIGHT)) for number, region in self.regions.items()}

    def shown(self, picture_rgb: np.ndarray) -> list[int]:
        """The numbers of the regions that a picture shows."""
        rim = round(0.08 * max(picture_rgb.shape[:2]))  # a bare crop may be a little smaller than any size tried
        gray, found = cv2.copyMakeBorder(_gray(picture_rgb), rim, rim, rim, rim, cv2.BORDER_REPLICATE), set()
        for height in LOWEST * STEP ** np.arange(1 + np.log(max(1, min(gray.shape) / LOWEST)) // np.log(STEP)):
            small = _resized(gray, HEIGHT / height)
            for number, (x, y) in self._alike(small, set(self.kernels) - found):
                if self._closely(gray, number, (x, y), height / HEIGHT) >= CERTAIN:
                    found.add(number)
        return sorted(found)

    def _alike(self, gray: np.ndarray, numbers: set[int]) -> Iterator[tuple[int, tuple[int, int]]]:
        by_shape: dict[tuple[int, int], list[int]] = {}
        for number in sorted(numbers):
            by_shape.setdefault(self.kernels[number].shape, []).append(number)
        for shape, chosen in by_shape.items():
            if shape[0] > gray.shape[0] or shape[1] > gray.shape[1]:
                continue
            kernels = torch.from_numpy(np.stack([self.kernels[number].ravel() for number in chosen]))
            pixels = torch.from_numpy(gray)[None, None]
            mean = F.avg_pool2d(pixels, shape, stride=1)
            spread = (F.avg_pool2d(pixels**2, shape, stride=1) - mean**2).clamp(min=4).sqrt() * np.sqrt(np.prod(shape))
            best = (_correlated(pixels, kernels, shape) / spread[0].flatten(1)).max(dim=1)
            width = gray.shape[1] - shape[1] + 1
            for number, value, place in zip(chosen, best.values.tolist(), best.indices.tolist(), strict=True):
                if value >= ALIKE:
                    yield number, (place % width, place // width)

    def _closely(self, gray: np.ndarray, number: int, place_xy: tuple[int, int], scale: float) -> float:
        """The highest correlation around a place, over sizes a little larger and smaller."""
        region = self.regions[number]
        height = region.shape[0]
        x, y = (int(value * scale) for value in place_xy)
        shown = self.kernels[number].shape[0] * scale, self.kernels[number].shape[1] * scale
        best = 0.0
        for stretch in (0.92, 0.96, 1.0, 1.04, 1.08):
            pad = 0.15 * shown[0]
            top, left = max(0, int(y - pad)), max(0, int(x - pad))
            part = gray[top : int(y + shown[0] * 1.1 + pad), left : int(x + shown[1] * 1.1 + pad)]
            # The part is brought to the region's own size, or the region to the part's if that is the smaller one.
            factor = min(1.0, shown[0] * stretch / height)
            template = _resized(region, factor)
            seen = _resized(part, factor * height / (shown[0] * stretch))
            if template.shape[0] <= seen.shape[0] and template.shape[1] <= seen.shape[1] and min(template.shape) >= 8:
                best = max(best, float(cv2.matchTemplate(seen, template, cv2.TM_CCOEFF_NORMED).max()))
        return best


def _correlated(pixels: torch.Tensor, kernels: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    """Each kernel at each place, ``(kernels, places)``: a convolution of one channel takes ten times as long."""
    rows = pixels.shape[2] - shape[0] + 1
    parts = [
        kernels @ F.unfold(pixels[:, :, top : min(top + 32, rows) + shape[0] - 1], shape)[0]
        for top in range(0, rows, 32)
    ]
    return torch.cat(parts, dim=1)


def _middle(region_rgb: np.ndarray) -> np.ndarray:
    height, width = region_rgb.shape[:2]
    kept = min(width, round(MOST_ASPECT * height))
    return region_rgb[:, (width - kept) // 2 : (width - kept) // 2 + kept]


def _gray(picture_rgb: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(np.ascontiguousarray(picture_rgb), cv2.COLOR_RGB2GRAY).astype(np.float32)


def _resized(gray: np.ndarray, factor: float) -> np.ndarray:
    size = max(1, round(gray.shape[1] * factor)), max(1, round(gray.shape[0] * factor))
    return cv2.resize(gray, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR)


def _sized(gray: np.ndarray, height: int) -> np.ndarray:
    """At one height, the width rounded to multiples of four so that many regions share a size."""
    width = max(8, 4 * round(gray.shape[1] / gray.shape[0] * height / 4))
    return cv2.resize(gray, (width, height), interpolation=cv2.INTER_AREA)


def _unit(gray: np.ndarray) -> np.ndarray:
    centered = gray - gray.mean()
    return centered / max(float(np.linalg.norm(centered)), 1e-6)


# Embeddings -----------------------------------------------------------------------------------------------------------


def embedded(data: bytes, embeddings: list[np.ndarray]) -> set[int]:
    """The numbers of the embeddings that stand in some bytes: as text, as plain floats, or as rows of an array."""
    found: set[int] = set()
    arrays = arrays_in(data)
    streams = list(_streams(data))
    for known in embeddings:
        if not len(known):
            continue
        for array in arrays:
            found |= _rows(array, known)
        for values, tolerance in streams:
            found |= _runs(values, known, tolerance)
    return found


def _streams(data: bytes) -> Iterator[tuple[np.ndarray, float]]:
    """Some bytes read as numbers in every way that somebody writes them, with how exact they are then."""
    if _is_text(data):
        yield np.array([float(token) for token in NUMBER.findall(data)], np.float64), 6e-4
        return
    for dtype, tolerance in (("<f4", 5e-5), ("<f2", 1e-4), ("<f8", 5e-5)):
        size = np.dtype(dtype).itemsize
        for offset in range(size):
            whole = (len(data) - offset) // size
            yield np.frombuffer(data, dtype, whole, offset), tolerance


def _is_text(data: bytes) -> bool:
    try:
        data[:4096].decode()
    except UnicodeDecodeError as error:
        return error.start > 4000
    return b"\0" not in data[:4096]


def directions(features: np.ndarray) -> list[np.ndarray]:
    """What features that are not of unit length are known by: as they are, and as a covariance is made of them."""
    return [
        rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)
        for rows in (features, features - features.mean(axis=0))
    ]


def _rows(array: np.ndarray, known: np.ndarray) -> set[int]:
    width = known.shape[1]
    if array.dtype.kind != "f" or array.ndim < 1 or array.shape[-1] != width:
        return set()
    rows = array.reshape(-1, width).astype(np.float32)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)
    return set(np.flatnonzero((known @ rows.T > 0.999).any(axis=1)).tolist())


def _runs(values: np.ndarray, known: np.ndarray, tolerance: float) -> set[int]:
    """Which embeddings stand as a run of numbers: their first three are compared, then all."""
    width = known.shape[1]
    if len(values) < width:
        return set()
    found = set()
    last = len(values) - width + 1
    order = np.argsort(known[:, 0])
    with np.errstate(invalid="ignore"):
        place = np.searchsorted(known[order, 0], values[:last])
        for step in (-1, 0):
            nearest = order[np.clip(place + step, 0, len(order) - 1)]
            near = np.flatnonzero(np.abs(values[:last] - known[nearest, 0]) < tolerance)
            for column in (1, 2, 3):
                near = near[np.abs(values[near + column] - known[nearest[near], column]) < tolerance]
            for start in near:
                run = values[start : start + width].astype(np.float64)
                if np.abs(run - known[nearest[start]]).max() < 10 * tolerance:
                    found.add(int(nearest[start]))
    return found
