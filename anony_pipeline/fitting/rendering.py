"""Training data of the base models: procedural faces, plates and scenes, rendered by many processes and kept."""

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from anony_pipeline.config.schema import Streetscape
from anony_pipeline.datasets.streetscape import people, vehicles, writer
from anony_pipeline.fitting.loop import Progress
from anony_pipeline.ops import images
from anony_pipeline.plates.finish import Finish
from anony_pipeline.plates.styles import load_styles
from anony_pipeline.runtime import parallel, seeding
from anony_pipeline.runtime.progress import track
from anony_pipeline.storage import atomic
from anony_pipeline.structures.regions import CATEGORY_IDS, Kind

FACE_PX, RENDERED_PX = 128, 192
PLATE_HW = (80, 240)
FAMILY: Literal["base"] = "base"
STANDARD_SHARE, FINISHED_SHARE = 0.7, 0.6


@dataclass(frozen=True)
class Faces:
    """Rendered faces.

    Attributes:
        images: ``(N, 128, 128, 3)`` uint8 RGB.
        boxes: ``(N, 4)`` float32 xyxy in their pixels.
        landmarks: ``(N, 5, 2)`` float32 in their pixels.
        people: ``(N,)`` seeds of the people.
        attributes: What is known of each by construction.
    """

    images: np.ndarray
    boxes: np.ndarray
    landmarks: np.ndarray
    people: np.ndarray
    attributes: list[dict[str, Any]]


@dataclass(frozen=True)
class Plates:
    """Rendered plates.

    Attributes:
        images: ``(N, 80, 240, 3)`` uint8 RGB, each stretched to this size.
        serials: Their texts.
        rows: ``(N,)`` how many rows each text stands in.
        heights: ``(N,)`` of a row in px as photographed, the plate's height over its rows.
    """

    images: np.ndarray
    serials: list[str]
    rows: np.ndarray
    heights: np.ndarray


@dataclass(frozen=True)
class Scenes:
    """Rendered scenes.

    Attributes:
        images: ``(H, W, 3)`` uint8 RGB, of any sizes.
        boxes: Of each image ``(M, 4)`` float32 xyxy in pixels.
        labels: Of each image ``(M,)`` category ids.
        not_exhaustive: Of each image the category ids that it does not label.
    """

    images: list[np.ndarray]
    boxes: list[np.ndarray]
    labels: list[np.ndarray]
    not_exhaustive: list[tuple[int, ...]]


def render_faces(seeds: Sequence[int], views: int, cache: Path, *, seed: int, progress: Progress = track) -> Faces:
    """Render people, each seen ``views`` times.

    Args:
        seeds: Of the people.
        views: Pictures of each.
        cache: What is rendered is kept there.
        seed: Of poses, light and camera.
        progress: Shows how far it is.
    """
    jobs = [(chunk.tolist(), views, seed) for chunk in _chunks(np.asarray(seeds), 8)]
    parts = _rendered(_faces_job, jobs, cache / f"faces-{min(seeds)}-{len(seeds)}-{views}-{seed}", progress)
    joined = {
        name: np.concatenate([part[name] for part in parts]) for name in ("images", "boxes", "landmarks", "people")
    }
    return Faces(**joined, attributes=[one for part in parts for one in json.loads(str(part["attributes"]))])


def _faces_job(job: tuple[list[int], int, int]) -> dict[str, np.ndarray]:
    seeds, views, seed = job
    cut, owners = [], []
    for person_seed in seeds:
        person = people.sample_person(person_seed)
        for view in range(views):
            rng = seeding.numpy_generator(seed, f"face-{person_seed}", view)
            cut.append(_about_the_face(people.render_face_crop(person, rng, size=RENDERED_PX, family=FAMILY)))
            owners.append(person_seed)
    return {
        "images": np.stack([image for image, _, _, _ in cut]),
        "boxes": np.stack([box for _, box, _, _ in cut]).astype(np.float32),
        "landmarks": np.stack([points for _, _, points, _ in cut]).astype(np.float32),
        "people": np.array(owners, np.int64),
        "attributes": np.array(json.dumps([one for _, _, _, one in cut], default=float)),
    }


def _about_the_face(crop: people.FaceCrop) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
    """The middle of a crop: a face takes half of what is rendered, and what is far from it need not be kept."""
    middle = (crop.box_xyxy[:2] + crop.box_xyxy[2:]) / 2
    corner = np.clip(np.rint(middle - FACE_PX / 2), 0, RENDERED_PX - FACE_PX)
    left, top = corner.astype(int)
    image = crop.image[top : top + FACE_PX, left : left + FACE_PX]
    return image, crop.box_xyxy - np.tile(corner, 2), crop.landmarks - corner, crop.attributes


def render_plates(count: int, cache: Path, *, seed: int, progress: Progress = track) -> Plates:
    """Render ``count`` plates, each in a crop that it fills up to a small margin."""
    jobs = [(chunk.tolist(), seed) for chunk in _chunks(np.arange(count), 128)]
    parts = _rendered(_plates_job, jobs, cache / f"plates-{count}-{seed}", progress)
    return Plates(
        np.concatenate([part["images"] for part in parts]),
        [serial for part in parts for serial in part["serials"].tolist()],
        np.concatenate([part["rows"] for part in parts]),
        np.concatenate([part["heights"] for part in parts]),
    )


def _plates_job(job: tuple[list[int], int]) -> dict[str, np.ndarray]:
    numbers, seed = job
    drawn = [_plate(seeding.numpy_generator(seed, "plate", number)) for number in numbers]
    return {
        "images": np.stack([images.resize(crop.image, PLATE_HW) for crop, _ in drawn]),
        "serials": np.array([crop.serial for crop, _ in drawn]),
        "rows": np.array([rows for _, rows in drawn]),
        "heights": np.array([crop.height_px / rows for crop, rows in drawn], np.float32),
    }


def _plate(rng: np.random.Generator) -> tuple[vehicles.PlateCrop, int]:
    """A plate of any style, mostly in its standard shape, flat as scenes have it or finished as streets have it."""
    styles = load_styles()
    style = styles[str(rng.choice(list(styles)))]
    shapes = list(style.shapes.values())
    shape = shapes[0] if rng.random() < STANDARD_SHARE else shapes[int(rng.integers(len(shapes)))]
    finish = Finish.sample(rng) if rng.random() < FINISHED_SHARE else None
    return vehicles.render_plate_crop(rng, FAMILY, shape, finish), shape.serial.rows


def render_scenes(count: int, cache: Path, *, seed: int, progress: Progress = track) -> Scenes:
    """Write procedural data sets in pieces, and read their images and ground truth back."""
    pieces = [
        (cache / f"scenes-{count}-{seed}", seed * 10_000 + 1 + n, len(c))
        for n, c in enumerate(_chunks(np.arange(count), 16))
    ]
    parts = _rendered(_scenes_job, pieces, cache / f"scenes-{count}-{seed}", progress)
    found = Scenes([], [], [], [])
    for part in parts:
        for number in range(int(part["count"])):
            found.images.append(images.decode(part[f"image{number}"].tobytes(), where=f"scene {number}"))
            found.boxes.append(part[f"boxes{number}"])
            found.labels.append(part[f"labels{number}"])
            found.not_exhaustive.append(tuple(part[f"not_exhaustive{number}"].tolist()))
    return found


def _scenes_job(job: tuple[Path, int, int]) -> dict[str, np.ndarray]:
    folder, seed, scenes = job
    roots = [folder / f"{seed}" / name for name in ("widerface", "pp4av")]
    # Two scenes a person are enough for a detector; a set needs some people.
    writer.write(Streetscape(seed=seed, people=max(8, scenes), scenes=max(4, scenes), family=FAMILY), *roots, workers=1)
    arrays: dict[str, np.ndarray] = {}
    count = 0
    for root in roots:
        truth = json.loads((root / "ground_truth.json").read_text())["images"]
        for name, entry in sorted(truth.items()):
            file = next(path for path in (root / name, *root.rglob(Path(name).name)) if path.is_file())
            xywh = np.array([region["bbox"] for region in entry["regions"]], np.float32).reshape(-1, 4)
            arrays[f"image{count}"] = np.frombuffer(file.read_bytes(), np.uint8)
            arrays[f"boxes{count}"] = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
            arrays[f"labels{count}"] = np.array([CATEGORY_IDS[Kind(r["kind"])] for r in entry["regions"]], np.int64)
            # As in WIDERFace itself, the plates of its layout are drawn and not labeled.
            unlabeled = [CATEGORY_IDS[Kind.PLATE]] if root.name == "widerface" else []
            arrays[f"not_exhaustive{count}"] = np.array(unlabeled, np.int64)
            count += 1
    return {**arrays, "count": np.array(count)}


def _chunks(values: np.ndarray, size: int) -> list[np.ndarray]:
    return [values[start : start + size] for start in range(0, len(values), size)]


def _rendered(
    function: Callable[[Any], dict[str, np.ndarray]], jobs: Sequence[Any], folder: Path, progress: Progress
) -> list[dict[str, np.ndarray]]:
    """Run jobs in as many processes as there are cores; each leaves a file, so that a broken run continues."""
    files = [folder / f"{number:05d}.npz" for number in range(len(jobs))]
    missing = [(function, job, file) for job, file in zip(jobs, files, strict=True) if not file.exists()]
    workers = min(len(missing), parallel.cores())
    if workers > 1:
        with parallel.pool_of(workers, _single_threaded) as pool:
            done = as_completed([pool.submit(_render_to, *task) for task in missing])
            for future, _ in zip(done, progress(range(len(missing)), f"rendering {folder.name}"), strict=True):
                future.result()
    else:
        for number in progress(range(len(missing)), f"rendering {folder.name}"):
            _render_to(*missing[number])
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(_read, files))


def _read(file: Path) -> dict[str, np.ndarray]:
    with np.load(file, allow_pickle=False) as arrays:
        return dict(arrays)


def _render_to(function: Callable[[Any], dict[str, np.ndarray]], job: Any, file: Path) -> None:  # noqa: ANN401 - each function has its own job
    arrays = function(job)
    with atomic.writing(file) as target:
        np.savez(target, **arrays)  # type: ignore[arg-type]


def _single_threaded() -> None:
    parallel.single_threaded()
    torch.set_num_threads(1)
