"""The procedural street data set on disk, in the layouts of WIDERFace and PP4AV, with its ground truth beside it."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from anony_pipeline.config.schema import Streetscape
from anony_pipeline.datasets.streetscape import camera as cameras
from anony_pipeline.datasets.streetscape.casting import CrowdPlan, StreetPlan, crowd_scene, leads_of, street_frame
from anony_pipeline.datasets.streetscape.scenes import Scene, SceneRegion
from anony_pipeline.datasets.streetscape.vehicles import Vehicle, sample_vehicle
from anony_pipeline.errors import ConfigError
from anony_pipeline.runtime import parallel
from anony_pipeline.runtime.progress import track
from anony_pipeline.runtime.seeding import numpy_generator
from anony_pipeline.storage import atomic

FORMAT = "anony_pipeline.streetscape/1"
TRUTH_FORMAT = "anony_pipeline.ground_truth/1"
SETTINGS, TRUTH = "streetscape.json", "ground_truth.json"
VERSION = 1
"""Goes up when the same settings give other pictures: older folders are then made anew."""

# The demo splits sequences in blocks of 4 frames, every third of which is val; here each block has its own cast.
CLIP_FRAMES, VAL_EVERY = 4, 3
STREET_SHARE, VAL_SHARE = 0.43, 0.42
LEADS = 5
EVENTS = (
    "0--Parade",
    "5--Car_Accident",
    "7--Cheering",
    "9--Press_Conference",
    "29--Students_Schoolkids",
    "54--Rescue",
    "61--Street_Battle",
)
# Group, plate style, and whether it is a night drive (None: as the family has it).
GROUPS: dict[str, tuple[tuple[str, str, bool | None], ...]] = {
    "demo": (
        ("netherlands_day", "NL", False),
        ("netherlands_night", "NL", True),
        ("paris", "FR", None),
        ("stuttgart", "DE", None),
        ("zurich", "CH", None),
    ),
    # Of several colors: whoever has seen white plates alone finds no yellow one. That of the demo stays unseen.
    "base": (
        ("beijing", "CN", None),
        ("brazil", "BR", None),
        ("california", "US_CA", None),
        ("new_york", "US_NY", None),
        ("romania", "RO", None),
        ("singapore", "SG", None),
        ("strasbourg", "FR", None),
        ("stuttgart", "DE", None),
        ("sydney", "AU_NSW", None),
        ("tokyo", "JP", None),
    ),
}
# People's seeds by family: nobody of the demo is ever seen by a base model. Judges are fitted on seeds far below.
FIRST_PERSON = {"base": 400_000_000, "demo": 700_000_000}
PEOPLE_PER_SEED, SEEDS = 5_000, 50_000
VEHICLES_PER_CAST = 6


@dataclass(frozen=True)
class StreetscapeReport:
    """What was written.

    Attributes:
        written: False if complete folders of the same settings were there already.
        images: Over both layouts.
        faces: Labeled faces.
        plates: Labeled plates.
        people: Distinct people labeled.
        vehicles: Distinct vehicles whose plates are labeled.
        times: Images by time of day.
    """

    written: bool
    images: int
    faces: int
    plates: int
    people: int
    vehicles: int
    times: dict[str, int]


@dataclass(frozen=True)
class Job:
    """One image: what to draw, where it goes, and how it is labeled."""

    layout: str
    name: str
    plan: CrowdPlan | StreetPlan


def write(settings: Streetscape, widerface_root: Path, pp4av_root: Path, *, workers: int = 2) -> StreetscapeReport:
    """Write the data set, or leave it as it is if it is there already with the same settings.

    Args:
        settings: Seed, people, scenes and family; equal settings give equal bytes, whatever ``workers`` is.
        widerface_root: Gets ``WIDER_{train,val}/images/<event>/*.jpg`` and ``wider_face_split/*.txt``.
        pp4av_root: Gets ``images/<group>/*.jpg`` and ``annotations/<group>/*.txt``.
        workers: Processes that draw.

    Returns:
        Counts of what lies there now.

    Raises:
        ConfigError: If something else lies in one of the folders.
    """
    roots = {"widerface": Path(widerface_root), "pp4av": Path(pp4av_root)}
    wanted = {"format": FORMAT, "version": VERSION, "settings": settings.model_dump(mode="json")}
    found = [_settings_in(root) for root in roots.values()]
    if all(one is not None and {**one, "report": None} == {**wanted, "report": None} for one in found):
        return StreetscapeReport(**{**found[0]["report"], "written": False})  # type: ignore[index]
    for root in roots.values():
        if root.exists() and not (root / SETTINGS).exists() and (not root.is_dir() or any(root.iterdir())):
            raise ConfigError(
                "what lies there is not procedural, and would be overwritten",
                where=root,
                do="name another folder; to use what is there, leave data.streetscape out",
            )
    jobs = jobs_of(settings)
    truths: dict[str, dict[str, Any]] = {"widerface": {}, "pp4av": {}}
    with atomic.folder(roots["widerface"]) as wider, atomic.folder(roots["pp4av"]) as drive:
        parts = {"widerface": wider, "pp4av": drive}
        drawn = _drawn([(job, parts[job.layout]) for job in jobs], workers)
        for job, truth in zip(jobs, track(drawn, "drawing streets", total=len(jobs)), strict=True):
            truths[job.layout][job.name] = truth
        _write_wider_splits(wider, truths["widerface"])
        _write_rows(drive, truths["pp4av"])
        report = _report(truths)
        for layout, part in parts.items():
            images = {
                name: {"time": one["time"], "regions": [_public(r) for r in one["regions"]]}
                for name, one in truths[layout].items()
            }
            atomic.write_json(part / TRUTH, {"format": TRUTH_FORMAT, "images": images})
            atomic.write_json(part / SETTINGS, {**wanted, "report": asdict(report)})
    return report


def jobs_of(settings: Streetscape) -> list[Job]:
    """Everything that is to be drawn, in the order in which it is listed."""
    return _crowd_jobs(settings) + _street_jobs(settings)


def _settings_in(root: Path) -> dict[str, Any] | None:
    path = root / SETTINGS
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _people_of(settings: Streetscape) -> tuple[list[int], list[int]]:
    """Seeds of the people of train and of val: nobody is in both."""
    first = FIRST_PERSON[settings.family] + settings.seed % SEEDS * PEOPLE_PER_SEED
    everybody = [first + i for i in range(settings.people)]
    cut = max(1, round(len(everybody) * (1 - VAL_SHARE)))
    return everybody[:cut], everybody[cut:] or everybody[-1:]


def _counts(settings: Streetscape) -> tuple[int, int, int]:
    """How many scenes of people are train and val, and how many frames of drives there are."""
    frames = (
        round(settings.scenes * STREET_SHARE / CLIP_FRAMES) * CLIP_FRAMES
        if settings.scenes >= 3 * CLIP_FRAMES
        else settings.scenes // 2
    )
    crowds = settings.scenes - frames
    val = min(max(1, round(crowds * VAL_SHARE)), max(crowds - 1, 0))
    return crowds - val, val, frames


def _crowd_jobs(settings: Streetscape) -> list[Job]:
    train, val, _ = _counts(settings)
    jobs = []
    for split, people, scenes, start in zip(
        ("train", "val"), _people_of(settings), (train, val), (0, train), strict=True
    ):
        rng = numpy_generator(settings.seed, f"casting/{settings.family}/{split}")
        shared = leads_of(people, scenes, LEADS, rng)
        for number, leads in enumerate(shared):
            rest = [person for person in people if person not in leads]
            count = min(len(rest), int(rng.integers(0, 7)))
            others = tuple(int(p) for p in rng.choice(rest, count, replace=False)) if count else ()
            # One image without a face in each split of some size, as in WIDERFace.
            empty = scenes >= 4 and number == scenes - 1
            plan = CrowdPlan(
                settings.seed, start + number, settings.family, () if empty else leads, () if empty else others
            )
            event = EVENTS[number % len(EVENTS)]
            stem = f"{event.replace('--', '_')}_{settings.seed}_{start + number}"
            jobs.append(Job("widerface", f"WIDER_{split}/images/{event}/{stem}.jpg", plan))
    return jobs


def _street_jobs(settings: Streetscape) -> list[Job]:
    _, _, frames = _counts(settings)
    clips = -(-frames // CLIP_FRAMES)
    groups = _groups_used(settings, clips)
    clip_group = sorted(index * len(groups) // max(clips, 1) for index in range(clips))
    pools = _people_of(settings)
    jobs: list[Job] = []
    numbers: dict[str, int] = {}
    for clip, place in enumerate(clip_group):
        group, style, night = groups[place]
        rng = numpy_generator(settings.seed, f"clip-cast/{settings.family}", clip)
        is_val = clip % VAL_EVERY == VAL_EVERY - 1
        people = pools[1] if is_val else pools[0]
        walkers = rng.choice(people, min(len(people), int(rng.integers(1, 5))), replace=False)
        vehicles = _vehicles_of(settings, group, style, "val" if is_val else "train")
        chosen = [vehicles[i] for i in rng.choice(len(vehicles), int(rng.integers(4, 7)), replace=False)]
        for frame in range(min(CLIP_FRAMES, frames - clip * CLIP_FRAMES)):
            numbers[group] = numbers.get(group, 0) + 1
            plan = StreetPlan(
                settings.seed, clip, frame, settings.family, tuple(map(int, walkers)), tuple(chosen), night
            )
            jobs.append(Job("pp4av", f"images/{group}/{group}_{numbers[group]:06d}.jpg", plan))
    return jobs


def _groups_used(settings: Streetscape, clips: int) -> list[tuple[str, str, bool | None]]:
    """As many groups as have clips enough for train and val each; in the order in which splits count blocks."""
    groups = GROUPS[settings.family]
    count = int(np.clip(clips // VAL_EVERY, 1, len(groups)))
    chosen = [groups[(settings.seed + i) % len(groups)] for i in range(count)]
    return sorted(chosen)


def _vehicles_of(settings: Streetscape, group: str, style: str, split: str) -> list[Vehicle]:
    rng = numpy_generator(settings.seed, f"vehicles/{settings.family}/{group}/{split}")
    first = int(rng.integers(1, 9_000_000))
    return [sample_vehicle(first + i, style, rng) for i in range(VEHICLES_PER_CAST)]


def _drawn(tasks: Sequence[tuple[Job, Path]], workers: int) -> Iterator[dict[str, Any]]:
    if workers <= 1 or len(tasks) < 8:
        yield from map(_draw, tasks)
        return
    with parallel.pool_of(workers) as pool:
        yield from pool.map(_draw, tasks, chunksize=2)


def _draw(task: tuple[Job, Path]) -> dict[str, Any]:
    """Draw one image, write it, and return its truth as JSON values."""
    job, root = task
    scene = crowd_scene(job.plan) if isinstance(job.plan, CrowdPlan) else street_frame(job.plan)
    path = root / job.name
    path.parent.mkdir(parents=True, exist_ok=True)
    quality = [cv2.IMWRITE_JPEG_QUALITY, scene.camera.jpeg_quality]
    # The folder takes its name when it is complete, so its files need no atomic step of their own.
    path.write_bytes(cv2.imencode(".jpg", cv2.cvtColor(scene.image, cv2.COLOR_RGB2BGR), quality)[1].tobytes())
    height, width = scene.image.shape[:2]
    regions = [_region_record(region, job.layout, scene) for region in scene.regions]
    return {"time": scene.time, "size_wh": [width, height], "regions": [r for r in regions if r is not None]}


def _region_record(region: SceneRegion, layout: str, scene: Scene) -> dict[str, Any] | None:
    if layout == "widerface" and region.kind != "face":
        return None
    x_min, y_min, x_max, y_max = region.box_xyxy
    box = [x_min, y_min, x_max - x_min, y_max - y_min]
    box = (
        [int(v) for v in (round(x_min), round(y_min), max(1, round(box[2])), max(1, round(box[3])))]
        if layout == "widerface"
        else [round(v, 4) for v in box]
    )
    points = {
        name: None if value is None else [[round(x, 2), round(y, 2)] for x, y in value]
        for name, value in (("quad", region.quad), ("landmarks", region.landmarks))
    }
    record: dict[str, Any] = {
        "kind": region.kind,
        "bbox": box,
        "identity": region.identity,
        "serial": region.serial,
        **points,
        "attributes": {**region.attributes, "visible": round(region.visible, 3)},
    }
    if region.kind == "face":
        record["wider"] = _wider_attributes(region, scene)
    return record


def _wider_attributes(region: SceneRegion, scene: Scene) -> list[int]:
    """``blur expression illumination invalid occlusion pose`` as WIDERFace codes them."""
    facts = region.attributes
    height = region.box_xyxy[3] - region.box_xyxy[1]
    smear = float(np.hypot(scene.camera.blur_px * 2.3, scene.camera.motion_px)) + 1.0
    share = smear / height
    covered = facts["mask"] != "none" or facts["glasses"] == "sun"
    return [
        2 if share > 0.16 else 1 if share > 0.07 else 0,
        int(facts["mouth_open"] > 0.55),
        int(scene.time == "night"),
        0,
        2 if region.visible < 0.6 else 1 if region.visible < 0.93 or covered else 0,
        int(abs(facts["yaw"]) > 55 or abs(facts["roll"]) > 25 or abs(facts["pitch"]) > 25),
    ]


def _public(region: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in region.items() if key != "wider"}


def _write_wider_splits(root: Path, truths: dict[str, Any]) -> None:
    for split in ("train", "val"):
        prefix = f"WIDER_{split}/images/"
        lines = []
        for name, truth in truths.items():
            if not name.startswith(prefix):
                continue
            rows = [" ".join(map(str, [*region["bbox"], *region["wider"]])) + " " for region in truth["regions"]]
            # The official files give an image without faces one row of zeros.
            lines += [name.removeprefix(prefix), str(len(rows)), *(rows or ["0 " * 10])]
        atomic.write_text(
            root / "wider_face_split" / f"wider_face_{split}_bbx_gt.txt", "".join(f"{line}\n" for line in lines)
        )


def _write_rows(root: Path, truths: dict[str, Any]) -> None:
    for name, truth in truths.items():
        width, height = truth["size_wh"]
        rows = []
        for region in truth["regions"]:
            x, y, w, h = region["bbox"]
            values = ((x + w / 2) / width, (y + h / 2) / height, w / width, h / height)
            rows.append(f"{0 if region['kind'] == 'face' else 1} " + " ".join(f"{value:.6f}" for value in values))
        path = root / name.replace("images/", "annotations/", 1)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".txt").write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")


def _report(truths: dict[str, dict[str, Any]]) -> StreetscapeReport:
    images = [truth for layout in truths.values() for truth in layout.values()]
    regions = [region for truth in images for region in truth["regions"]]
    faces = [region for region in regions if region["kind"] == "face"]
    plates = [region for region in regions if region["kind"] != "face"]
    return StreetscapeReport(
        written=True,
        images=len(images),
        faces=len(faces),
        plates=len(plates),
        people=len({region["identity"] for region in faces}),
        vehicles=len({region["identity"] for region in plates}),
        times={time: sum(truth["time"] == time for truth in images) for time in cameras.TIMES},
    )
