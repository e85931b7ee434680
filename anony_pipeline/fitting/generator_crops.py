"""Procedural crops that the base generator learns from: faces, and plates beside the anchors that they get in use.

An anchor is the plate's own serial, drawn anew and fitted over the photographed one by `targets.plates`, as it is done
with every plate that is replaced: what the generator learns is what that leaves to be done.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from anony_pipeline.datasets.streetscape import people
from anony_pipeline.ops import crops
from anony_pipeline.plates import render, serials
from anony_pipeline.plates.styles import PlateStyle, load_styles
from anony_pipeline.runtime import parallel
from anony_pipeline.runtime.progress import track
from anony_pipeline.runtime.seeding import numpy_generator
from anony_pipeline.storage import atomic
from anony_pipeline.structures.regions import Kind, Region
from anony_pipeline.targets import plates as plate_targets

FACE_HW = (128, 128)
PLATE_HW = (64, 192)
# The window about a face off the middle must not reach far over the picture's edge.
FACE_DRAWN_PX = 144
CHUNK = 32
# People and crops of the demo's own data start at 0; the base model must not have met them.
FIRST_PERSON = 5_000_000
FACE_CONTEXT = (1.8, 2.2)
PLATE_CONTEXT = (1.35, 1.65)
"""About the defaults of ``face_context`` and ``plate_context``."""
FACES_FARTHER_AWAY = 0.4
FACE_SCALES = (0.15, 0.7)
"""Of the picture that a crop is cut from, for as many of the faces: faces of about 10 to 50 px."""
PLATE_SCALES = (0.15, 1.3)
"""Of the photograph that a plate's crop is cut from: plates of about 20 to 160 px width."""
INDEX = "crops.json"
# Fewer chunks are rendered before further processes have imported what they need.
WORTH_PROCESSES = 20
SUPERSAMPLING = 2
KNOWN_CORNERS = 0.3


@dataclass(frozen=True)
class Crops:
    """Rendered crops, memory-mapped.

    Attributes:
        faces: ``(N, 128, 128, 3)`` uint8 RGB.
        face_boxes: ``(N, 4)`` float32 xyxy in pixels of the crop.
        plates: ``(M, 64, 192, 3)`` uint8 RGB.
        anchors: ``(M, 64, 192, 3)`` uint8 RGB: the same with the plate's serial drawn anew and fitted in.
        plate_boxes: ``(M, 4)`` float32 xyxy in pixels of the crop.
    """

    faces: np.ndarray
    face_boxes: np.ndarray
    plates: np.ndarray
    anchors: np.ndarray
    plate_boxes: np.ndarray


def render_crops(folder: Path, *, count: Mapping[Kind, int], seed: int) -> Crops:
    """Render crops once into a folder, in parallel, and map them.

    Args:
        folder: Where the arrays go; if it holds those of the same counts, seed and distances, they are used.
        count: How many crops of each kind.
        seed: Same seed, same crops, whatever the number of processes.
    """
    farther = [FACES_FARTHER_AWAY, *FACE_SCALES]
    wanted = {**{kind.value: count[kind] for kind in Kind}, "seed": seed, "farther_away": farther}
    if not (folder / INDEX).exists() or json.loads((folder / INDEX).read_text()) != wanted:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / INDEX).unlink(missing_ok=True)
        for kind in Kind:
            _render_kind(folder, kind, count[kind], seed)
        atomic.write_json(folder / INDEX, wanted)
    names = ("faces", "face_boxes", "plates", "anchors", "plate_boxes")
    return Crops(*(np.load(folder / f"{name}.npy", mmap_mode="r") for name in names))


def face_crop(
    seed: int, index: int, person_seed: int | None = None, *, scale: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Render one face as the generator meets it.

    Args:
        seed: Of everything.
        index: The crop's number.
        person_seed: Who it is; None draws one of the people that the base model is trained on.
        scale: Of the picture that it is cut from: below 1 it is soft, as a face that is small in its image.

    Returns:
        The crop, ``(128, 128, 3)`` uint8, and the face's box ``(4,)`` in pixels of the crop.
    """
    rng = numpy_generator(seed, "generator/face", index)
    drawn_seed = FIRST_PERSON + int(rng.integers(1_000_000))
    person = people.sample_person(drawn_seed if person_seed is None else person_seed)
    drawn = people.render_face_crop(person, rng, size=FACE_DRAWN_PX, family="base")
    image, box = drawn.image, drawn.box_xyxy.astype(np.float64)
    if scale < 1:
        edge = round(FACE_DRAWN_PX * scale)
        image, box = _farther_away(image, edge, rng), box * edge / FACE_DRAWN_PX
    return _framed(image, box, FACE_HW, rng)


def _scale_of(seed: int, index: int) -> float:
    """How far away the face of a crop is."""
    rng = numpy_generator(seed, "generator/face scale", index)
    return float(np.exp(rng.uniform(*np.log(FACE_SCALES)))) if rng.random() < FACES_FARTHER_AWAY else 1.0


def _farther_away(image: np.ndarray, edge: int, rng: np.random.Generator) -> np.ndarray:
    """The same in fewer pixels, with the lens's blur and the sensor's noise of a picture that has no more of them."""
    small = cv2.resize(image, (edge, edge), interpolation=cv2.INTER_AREA).astype(np.float32)
    small = cv2.GaussianBlur(small, (0, 0), rng.uniform(0.2, 0.8)) + rng.normal(0, rng.uniform(0, 4), small.shape)
    return np.clip(np.rint(small), 0, 255).astype(np.uint8)


def plate_crop(seed: int, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Render one plate on a vehicle.

    Returns:
        The crop and its anchor, ``(64, 192, 3)`` uint8 each, and the plate's box ``(4,)`` in pixels of the crop.
    """
    rng = numpy_generator(seed, "generator/plate", index)
    styles = load_styles()
    # A script's font may be missing, and crops are a function of the seed on every machine.
    style = styles[str(rng.choice(sorted(key for key, style in styles.items() if not style.font.scripts)))]
    serial = serials.draw(style, rng)
    quad = _quad(style, rng)
    night = rng.random() < 0.25
    ratio = rng.uniform(0.55, 0.75)
    plate = _drawn(style, serial, ratio, rng, wear=rng.uniform(0, 0.8))
    scene = _with_plate(_vehicle(quad, rng), quad, plate, retro=1 + 1.5 * night * rng.random())
    scale = float(np.exp(rng.uniform(*np.log(PLATE_SCALES))))
    size_hw = (round(PLATE_HW[0] * scale), round(PLATE_HW[1] * scale))
    photograph = _photograph(scene, _light(rng, night=night), size_hw, rng)
    corners = quad / SUPERSAMPLING * (np.array(size_hw[::-1]) / PLATE_HW[::-1])
    region = _detected(corners, rng)
    drawn = plate_targets.Drawn(style, serial, ratio, seed=int(rng.integers(2**31)))
    anchor, _ = plate_targets.replace(photograph, region, drawn)
    window = (0.0, 0.0, float(size_hw[1]), float(size_hw[0]))
    box = crops.to_crop(np.array(region.box_xyxy).reshape(2, 2), window, PLATE_HW).reshape(4)
    return crops.cut(photograph, window, PLATE_HW), crops.cut(anchor, window, PLATE_HW), box.astype(np.float32)


def _render_kind(folder: Path, kind: Kind, count: int, seed: int) -> None:
    chunks = [(kind, seed, start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]
    names = ("faces", "face_boxes") if kind is Kind.FACE else ("plates", "anchors", "plate_boxes")
    arrays: list[np.memmap] = []
    begin = 0
    for rows in track(_mapped(chunks), f"rendering {kind} crops", total=len(chunks)):
        for position, values in enumerate(rows):
            if position == len(arrays):
                shape = (count, *values.shape[1:])
                path = folder / f"{names[position]}.npy"
                arrays.append(np.lib.format.open_memmap(path, mode="w+", dtype=values.dtype, shape=shape))
            arrays[position][begin : begin + len(values)] = values
        begin += len(rows[0])
    for array in arrays:
        array.flush()


Chunk = tuple[Kind, int, int, int]


def _mapped(chunks: list[Chunk]) -> Iterator[tuple[np.ndarray, ...]]:
    if len(chunks) < WORTH_PROCESSES:
        yield from map(_render_chunk, chunks)
        return
    with parallel.pool_of(parallel.cores()) as pool:
        yield from pool.map(_render_chunk, chunks)


def _render_chunk(chunk: Chunk) -> tuple[np.ndarray, ...]:
    kind, seed, start, end = chunk
    rows: Iterable[tuple[np.ndarray, ...]]
    rows = [
        face_crop(seed, i, scale=_scale_of(seed, i)) if kind is Kind.FACE else plate_crop(seed, i)
        for i in range(start, end)
    ]
    return tuple(np.stack(column) for column in zip(*rows, strict=True))


def _framed(
    image: np.ndarray, box: np.ndarray, size_hw: tuple[int, int], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Cut the window that the generator would be given about a detected box, which is never quite the true one."""
    size = box[2:] - box[:2]
    detected = box + np.concatenate([size, size]) * rng.normal(0, 0.04, 4)
    window = crops.window_around(tuple(detected.tolist()), size_hw, context=rng.uniform(*FACE_CONTEXT))
    moved = crops.to_crop(box.reshape(2, 2), window, size_hw).reshape(4)
    return crops.cut(image, window, size_hw), moved.astype(np.float32)


def _quad(style: PlateStyle, rng: np.random.Generator) -> np.ndarray:
    """The plate's corners in the supersampled crop, ``(4, 2)`` clockwise from its own top left."""
    height, width = (edge * SUPERSAMPLING for edge in PLATE_HW)
    context = rng.uniform(*PLATE_CONTEXT)
    aspect = style.size_mm[0] / style.size_mm[1] * rng.uniform(0.75, 1.02)
    plate_width = min(width / context, height / context * aspect)
    half = np.array([plate_width, plate_width / aspect]) / 2
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * half
    turn, shear = np.radians(rng.normal(0, 3)), rng.normal(0, 0.08)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    corners = corners @ rotation.T
    corners[:, 1] += corners[:, 0] * shear
    # One side farther away: its edge is shorter.
    corners[:, 1] *= 1 + rng.normal(0, 0.06) * corners[:, 0] / half[0]
    center = np.array([width, height]) * (0.5 + rng.normal(0, 0.015, 2))
    return corners + center


def _detected(corners: np.ndarray, rng: np.random.Generator) -> Region:
    """The plate as it is known in use: mostly a detector's box alone, sometimes with its corners."""
    box = np.concatenate([corners.min(axis=0), corners.max(axis=0)])
    if rng.random() < KNOWN_CORNERS:
        placed = corners + rng.normal(0, 0.01, (4, 2)) * (box[2] - box[0])
        return Region(Kind.PLATE, tuple(box.tolist()), quad=tuple((float(x), float(y)) for x, y in placed))
    jitter = rng.normal(0, 0.02, 4) * np.tile(box[2:] - box[:2], 2)
    return Region(Kind.PLATE, tuple((box + jitter).tolist()))


def _drawn(style: PlateStyle, serial: str, ratio: float, rng: np.random.Generator, wear: float) -> np.ndarray:
    height = 112
    size_hw = (height, round(height * style.size_mm[0] / style.size_mm[1]))
    return render.render(style, serial, size_hw, font_ratio=ratio, rng=rng, wear=wear)


def _vehicle(quad: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What is around a plate: painted metal with edges and reflections, a bumper, a grille or a recess, a lamp."""
    height, width = (edge * SUPERSAMPLING for edge in PLATE_HW)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    paint = np.array(PAINTS[rng.integers(len(PAINTS))], np.float32) * rng.uniform(0.6, 1.2)
    slope = rng.normal(0, 0.1)
    level = (y + slope * (x - width / 2)) / height
    shade = 1 + rng.normal(0, 0.25) * (level - 0.5) + 0.12 * np.sin(level * rng.uniform(2, 9) + rng.uniform(0, 6))
    image = paint * shade[..., None]
    top, bottom = quad[:, 1].min() / height, quad[:, 1].max() / height
    for _ in range(rng.integers(1, 5)):
        edge, band = rng.uniform(-0.1, 1.1), rng.uniform(0.02, 0.25)
        image *= 1 + rng.uniform(-0.6, 0.35) * _band(level, edge, edge + band)[..., None]
    if rng.random() < 0.5:
        recess = _band(level, top - rng.uniform(0.02, 0.25), bottom + rng.uniform(0.02, 0.3))
        dark = np.array([24, 24, 26], np.float32) * rng.uniform(0.5, 2.5)
        image += (dark - image) * (recess * rng.uniform(0.6, 1))[..., None]
    if rng.random() < 0.3:
        bars = 0.5 + 0.5 * np.sin(level * rng.uniform(40, 120))
        place = _band(level, -1, top - 0.05) if rng.random() < 0.5 else _band(level, bottom + 0.05, 2)
        image *= 1 - 0.6 * (bars * place)[..., None]
    if rng.random() < 0.5:
        road = _band(level, rng.uniform(min(max(0.8, bottom), 1.1), 1.1), 2)
        image += (np.array([70, 70, 72], np.float32) * rng.uniform(0.4, 1.2) - image) * road[..., None]
    if rng.random() < 0.4:
        _lamp(image, x / width, y / height, rng)
    return np.clip(image + rng.normal(0, 1.5, (height, width, 1)), 0, 400).astype(np.float32)


PAINTS = (
    (228, 228, 226), (196, 198, 200), (150, 152, 156), (92, 95, 100), (52, 54, 58), (24, 25, 28), (30, 46, 92), (62, 96,
    150), (140, 22, 26), (96, 18, 24), (34, 62, 46), (120, 104, 84), (198, 172, 60), (176, 92, 36), (220, 212, 196),
)  # fmt: skip


def _band(level: np.ndarray, low: float, high: float, softness: float = 0.012) -> np.ndarray:
    rise = 1 / (1 + np.exp(-np.clip((level - low) / softness, -30, 30)))
    return rise / (1 + np.exp(-np.clip((high - level) / softness, -30, 30)))


def _lamp(image: np.ndarray, x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> None:
    center_x, center_y = rng.choice([rng.uniform(-0.05, 0.15), rng.uniform(0.85, 1.05)]), rng.uniform(0, 0.8)
    distance = np.hypot((x - center_x) / rng.uniform(0.05, 0.15), (y - center_y) / rng.uniform(0.1, 0.3))
    inside = 1 / (1 + np.exp(np.clip((distance - 1) / 0.05, -30, 30)))
    color = np.array([(170, 20, 24), (235, 235, 230), (220, 130, 40)][rng.integers(3)], np.float32)
    image += (color * (0.6 + 0.4 * np.sin(distance * 9)[..., None]) - image) * inside[..., None]


def _with_plate(body: np.ndarray, quad: np.ndarray, plate_rgb: np.ndarray, retro: float) -> np.ndarray:
    height, width = body.shape[:2]
    rows, columns = plate_rgb.shape[:2]
    source = np.array([[0, 0], [columns, 0], [columns, rows], [0, rows]], np.float32)
    matrix = cv2.getPerspectiveTransform(source, quad.astype(np.float32))
    # A plate of 96 rows shrinks to some 40: averaged first, so that strokes don't alias.
    soft = cv2.GaussianBlur(plate_rgb.astype(np.float32), (0, 0), 0.7)
    placed = cv2.warpPerspective(soft, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    cover = cv2.warpPerspective(np.ones((rows, columns), np.float32), matrix, (width, height), flags=cv2.INTER_LINEAR)
    shadow = cv2.GaussianBlur(cover, (0, 0), 2.5 * SUPERSAMPLING)
    ground = body * (1 - 0.35 * shadow[..., None])
    return ground + (placed * retro - ground) * cover[..., None]


def _light(rng: np.random.Generator, *, night: bool) -> np.ndarray:
    """The light's color and strength at each pixel, ``(H, W, 3)``."""
    height, width = (edge * SUPERSAMPLING for edge in PLATE_HW)
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    strength = rng.uniform(0.12, 0.45) if night else rng.uniform(0.5, 1.15)
    field = strength * (1 + rng.normal(0, 0.12) * x + rng.normal(0, 0.1) * y)
    if rng.random() < 0.3:
        slope, offset = rng.uniform(-1.5, 1.5), rng.uniform(-0.7, 0.7)
        field *= 1 - rng.uniform(0.2, 0.5) * _band(y - slope * x, offset, 9, softness=rng.uniform(0.02, 0.2))
    warmth = rng.normal(0, 0.1 if night else 0.05)
    return field[..., None] * np.array([1 + warmth, 1, 1 - warmth], np.float32)


def _photograph(scene: np.ndarray, light: np.ndarray, size_hw: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Light a scene and take a picture of it in ``size_hw`` pixels: with blur, noise and, half of the time, JPEG."""
    height, width = size_hw
    image = cv2.resize(scene * light, (width, height), interpolation=cv2.INTER_AREA)
    blur = rng.uniform(0.2, 1.0)
    image = cv2.GaussianBlur(image, (0, 0), sigmaX=blur * rng.uniform(0.8, 1.3), sigmaY=blur)
    image += rng.normal(0, rng.uniform(0.5, 6), image.shape) + rng.normal(0, rng.uniform(0, 3), (height, width, 1))
    picture = np.clip(np.rint(image), 0, 255).astype(np.uint8)
    if rng.random() < 0.5:
        _, packed = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(55, 96))])
        picture = np.asarray(cv2.imdecode(packed, cv2.IMREAD_COLOR))[..., ::-1]
    return np.ascontiguousarray(picture)
