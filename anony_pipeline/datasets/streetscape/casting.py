"""Who and what appears in which scene: crowds of the people of a split, and streets with the vehicles of a sequence."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from anony_pipeline.datasets.streetscape import camera as cameras
from anony_pipeline.datasets.streetscape.backdrop import Eye
from anony_pipeline.datasets.streetscape.camera import Family, Time
from anony_pipeline.datasets.streetscape.heads import Pose
from anony_pipeline.datasets.streetscape.identity import Person, sample_person
from anony_pipeline.datasets.streetscape.people import sample_pose
from anony_pipeline.datasets.streetscape.scenes import Parked, Scene, Standing, compose
from anony_pipeline.datasets.streetscape.vehicles import Vehicle
from anony_pipeline.datasets.streetscape.wear import sample_wear
from anony_pipeline.runtime.seeding import numpy_generator


@dataclass(frozen=True)
class CrowdPlan:
    """One scene of people: seeds of those in front, large enough to be recognized, and of those behind."""

    seed: int
    index: int
    family: Family
    leads: tuple[int, ...]
    others: tuple[int, ...]


@dataclass(frozen=True)
class StreetPlan:
    """One frame of a drive: the sequence it belongs to, its number in it, and who and what is on the street."""

    seed: int
    clip: int
    frame: int
    family: Family
    people: tuple[int, ...]
    vehicles: tuple[Vehicle, ...]
    night: bool | None


def crowd_scene(plan: CrowdPlan) -> Scene:
    """Draw and photograph a scene of people, as in WIDERFace: near and far ones, few vehicles, at eye level."""
    rng = numpy_generator(plan.seed, f"crowd/{plan.family}", plan.index)
    time = cameras.sample_time(rng, plan.family)
    light = cameras.sample_light(rng, time)
    eye = Eye(
        focal_px=float(rng.uniform(480, 620)), up=float(rng.uniform(1.4, 1.65)), horizon_px=float(rng.uniform(190, 260))
    )
    taken: list[tuple[float, float]] = []
    standing = []
    for count, seed in enumerate(plan.leads + plan.others):
        # A face is about 0.2 m high: at 0.8 to 3.2 m it takes 150 to 32 px, at 13 m 8 px.
        near, far = (0.85, 3.3) if count < len(plan.leads) else (3.5, 12.0)
        place = _free_place(rng, eye, (near, far), taken, apart_px=0.30 if count < len(plan.leads) else 0.12)
        if place is not None:
            standing.append(_stand(sample_person(seed), place, rng, away=0.0 if count < len(plan.leads) else 0.12))
    camera = cameras.sample_camera(rng, plan.family, time, 480)
    street = (int(rng.integers(1 << 31)), float(rng.uniform(0, 60)))
    return compose(standing, [], eye=eye, light=light, time=time, camera=camera, rng=rng, street=street)


def street_frame(plan: StreetPlan) -> Scene:
    """Draw and photograph one frame of a drive, as in PP4AV: vehicles ahead, parked and oncoming, a few pedestrians."""
    clip = numpy_generator(plan.seed, f"clip/{plan.family}", plan.clip)
    time = _time_of(plan, clip)
    light = cameras.sample_light(clip, time)
    eye = Eye(
        focal_px=float(clip.uniform(600, 780)),
        up=float(clip.uniform(1.25, 1.5)),
        horizon_px=float(clip.uniform(205, 245)),
    )
    speed, street = float(clip.uniform(0.6, 1.6)), int(clip.integers(1 << 31))
    camera = cameras.sample_camera(clip, plan.family, time, 480)
    parked = [_park(vehicle, slot, clip, plan.frame, speed) for slot, vehicle in enumerate(plan.vehicles)]
    standing = []
    for seed in plan.people:
        side, near = clip.choice([-1, 1]), clip.uniform(4.5, 15)
        x = float(np.clip(side * clip.uniform(2.2, 5.5), -0.42 * near, 0.42 * near))
        person = sample_person(seed)
        one = _stand(person, (x, float(near)), clip, away=0.25)
        walk = clip.uniform(-0.5, 0.5)
        z = max(2.2, one.at_xz[1] - speed * 0.4 * plan.frame + walk * plan.frame)
        turn = numpy_generator(plan.seed, f"turn/{plan.clip}/{seed}", plan.frame).normal(0, 12)
        pose = Pose(one.pose.yaw + float(turn), one.pose.pitch, one.pose.roll)
        standing.append(Standing(person, (one.at_xz[0], float(z)), one.body_yaw, pose, one.wear, one.height))
    rng = numpy_generator(plan.seed, f"frame/{plan.family}/{plan.clip}", plan.frame)
    return compose(
        standing, parked, eye=eye, light=light, time=time, camera=camera, rng=rng, street=(street, speed * plan.frame)
    )


def _time_of(plan: StreetPlan, clip: np.random.Generator) -> Time:
    if plan.night is None:
        return cameras.sample_time(clip, plan.family)
    if plan.night:
        return "night"
    return "day" if clip.random() < 0.7 else "dusk"


def _free_place(
    rng: np.random.Generator,
    eye: Eye,
    depth_range: tuple[float, float],
    taken: list[tuple[float, float]],
    apart_px: float,
) -> tuple[float, float] | None:
    """Find a place that isn't hidden behind, or hiding, somebody placed before."""
    half_width = eye.size_wh[0] / 2
    for _ in range(24):
        z = float(np.exp(rng.uniform(*np.log(depth_range))))
        reach = max(0.1, half_width - 0.11 * eye.focal_px / z)
        column = float(rng.uniform(-reach, reach))
        clear = all(abs(column - other) > apart_px * eye.focal_px * (1 / z + 1 / behind) / 2 for other, behind in taken)
        if clear:
            taken.append((column, z))
            return column * z / eye.focal_px, z
    return None


def _stand(person: Person, at_xz: tuple[float, float], rng: np.random.Generator, *, away: float) -> Standing:
    pose, wear = sample_pose(rng), sample_wear(rng, covered=0.8)
    body = pose.yaw * float(rng.uniform(0.2, 1.0))
    if rng.random() < away:
        turned = float(rng.uniform(140, 220))
        pose, body = Pose(turned, pose.pitch, pose.roll), turned
    return Standing(person, at_xz, body, pose, wear, float(rng.normal(1.0, 0.045)))


def _park(vehicle: Vehicle, slot: int, clip: np.random.Generator, frame: int, speed: float) -> Parked:
    """One ahead in the lane, the next oncoming, the others parked along the road."""
    wobble = float(clip.normal(0, 4))
    if slot == 0:
        z = clip.uniform(4.0, 7.5) + clip.uniform(-0.4, 0.6) * frame
        return Parked(vehicle, (float(clip.normal(0.2, 0.6)), float(max(z, 3.9))), wobble)
    if slot == 1:
        z = clip.uniform(9.5, 14) - 1.1 * frame
        return Parked(vehicle, (float(-2.6 + clip.normal(0, 0.2)), float(max(z, 5.0))), 180 + wobble)
    side = 1 if slot % 2 == 0 else -1
    z = clip.uniform(9, 12) + 5.5 * (slot // 2 - 1) - speed * frame * 0.5
    heading = 0.0 if clip.random() < 0.6 else 180.0
    return Parked(vehicle, (side * float(clip.uniform(2.7, 3.3)), float(max(z, 4.6))), heading + wobble)


def leads_of(people: Sequence[int], scenes: int, leads: int, rng: np.random.Generator) -> list[tuple[int, ...]]:
    """Share people out over scenes: each comes up equally often, never twice in one scene, in ever new company."""
    queue: list[int] = []
    shared = []
    for _ in range(scenes):
        chosen: list[int] = []
        while len(chosen) < min(leads, len(people)):
            if not queue:
                queue = list(rng.permutation(list(people)))
            place = next((i for i, person in enumerate(queue) if person not in chosen), None)
            if place is None:
                queue += [p for p in rng.permutation(list(people)) if p not in queue]
                continue
            chosen.append(int(queue.pop(place)))
        shared.append(tuple(chosen))
    return shared
