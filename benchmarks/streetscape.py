"""How fast procedural heads, plates and scenes are drawn on one core and on two, and where the time goes.

Run `OMP_NUM_THREADS=1 python benchmarks/streetscape.py`: a minute. Time is the process's own (CPU seconds), so that
other work on the machine changes it little; on two cores two processes draw at once and slow each other down as they
do in use. `--against FOLDER` also measures another checkout of this repository, in turns with this one.
"""

import argparse
import cProfile
import json
import multiprocessing
import os
import platform
import pstats
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from anony_pipeline.config.schema import Streetscape
from anony_pipeline.datasets import streetscape
from anony_pipeline.datasets.streetscape import camera, casting, people, wear, writer

PARTS = {
    "build_head": "expression, eyes, mouth, clothes",
    "_cloud_of": "sample what is in sight",
    "_splat": "draw in depth order",
    "_shadow_map": "shadows",
    "_lit": "colors, normals, light",
    "background": "what is behind a head",
    "cover_of": "a new person's skin and hair",
    "draw_backdrop": "sky, houses, road",
    "_draw_vehicle": "vehicles",
    "develop": "lens, sensor",
}
TURNS, SECONDS = 3, 5.0


def seconds_each(draw: Callable[[int], object], count: int) -> float:
    draw(0)
    begin = time.process_time()
    for number in range(count):
        draw(number)
    return (time.process_time() - begin) / count


def shares(draw: Callable[[int], object], count: int) -> dict[str, float]:
    profile = cProfile.Profile()
    profile.enable()
    for number in range(count):
        draw(number)
    profile.disable()
    stats = pstats.Stats(profile)
    found = {name: row[3] for (_, _, name), row in stats.stats.items() if name in PARTS}
    return {PARTS[name]: round(found[name] / stats.total_tt, 3) for name in PARTS if name in found}


def known(number: int) -> object:
    """A face of somebody who was drawn before."""
    return streetscape.render_face_crop(streetscape.sample_person(number % 10), np.random.default_rng(number), 128)


def alone(number: int) -> object:
    """A head as scenes are composed of: with an expression and what is worn, turned, lit and cut out, no body."""
    rng = np.random.default_rng(number)
    light = camera.sample_light(rng, camera.sample_time(rng, "base"))
    pose, expression, worn = people.sample_pose(rng), people.sample_expression(rng), wear.sample_wear(rng)
    return people.render_head(people.sample_person(number % 10), pose, light, 128, expression=expression, wear=worn)


RATES = {"heads": alone, "face_crops": known}


def pictures_a_second(job: tuple[str, int]) -> tuple[float, float]:
    """What one process draws a second, by its own time and by the clock."""
    cv2.setNumThreads(1)
    draw, first = RATES[job[0]], job[1]
    for number in range(20):
        draw(number)
    clock, own, drawn = time.monotonic(), time.process_time(), 0
    while time.monotonic() - clock < SECONDS:
        draw(first + drawn)
        drawn += 1
    return drawn / (time.process_time() - own), drawn / (time.monotonic() - clock)


def on_two_cores() -> dict[str, tuple[float, float]]:
    """What two processes draw a second together, by their own time and by the clock."""
    found = {}
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        for name in RATES:
            rates = pool.map(pictures_a_second, [(name, 0), (name, 100_000)], chunksize=1)
            own, clock = (sum(column) for column in zip(*rates, strict=True))
            found[name] = (own, clock)
    return found


def in_turns(against: Path | None) -> dict[str, object]:
    """The rates on two cores of this checkout and of another, measured in turns; medians."""
    turns: dict[str, list[dict[str, tuple[float, float]]]] = {"now": [], "before": []}
    for _ in range(TURNS):
        turns["now"].append(on_two_cores())
        if against is not None:
            # This file, with the other's package.
            command = [sys.executable, __file__, "--rate-only"]
            environment = {**os.environ, "PYTHONPATH": str(against.resolve())}
            done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
            turns["before"].append(json.loads(done.stdout))
    rates: dict[str, object] = {}
    for name in RATES:
        for when, measured in turns.items():
            if measured:
                own, clock = np.median([one[name] for one in measured], axis=0).round(1).tolist()
                rates[f"{name}_128px_a_second_on_two_cores_{when}"] = {"by_cpu_time": own, "by_the_clock": clock}
        if against is not None:
            pairs = zip(turns["now"], turns["before"], strict=True)
            rates[f"{name}_times_as_fast"] = [round(now[name][0] / before[name][0], 2) for now, before in pairs]
    return {**rates, "load_of_the_machine": round(os.getloadavg()[0], 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--against", type=Path, help="the root of another checkout, to be measured in turns")
    parser.add_argument("--rate-only", action="store_true", help="print the rates on two cores, and nothing else")
    arguments = parser.parse_args()
    if arguments.rate_only:
        print(json.dumps(on_two_cores()))
        return
    cv2.setNumThreads(1)
    jobs = writer.jobs_of(Streetscape())
    crowds = [job.plan for job in jobs if isinstance(job.plan, casting.CrowdPlan)]
    drives = [job.plan for job in jobs if isinstance(job.plan, casting.StreetPlan)]

    def new(number: int) -> object:
        return streetscape.render_face_crop(
            streetscape.sample_person(1000 + number), np.random.default_rng(number), 128
        )

    def plate(number: int) -> object:
        return streetscape.render_plate_crop(np.random.default_rng(number))

    def crowd(number: int) -> object:
        return casting.crowd_scene(crowds[number * 7 % len(crowds)])

    def drive(number: int) -> object:
        return casting.street_frame(drives[number * 7 % len(drives)])

    for number in range(10):
        known(number)
    results = {
        "machine": platform.processor() or platform.machine(),
        **in_turns(arguments.against),
        "face_crops_128px_a_second_on_one_core": round(1 / seconds_each(known, 100), 1),
        "face_crops_of_new_people_a_second_on_one_core": round(1 / seconds_each(new, 30), 1),
        "plate_crops_a_second_on_one_core": round(1 / seconds_each(plate, 60), 1),
        "crowd_scenes_a_second_on_one_core": round(1 / seconds_each(crowd, 12), 2),
        "street_frames_a_second_on_one_core": round(1 / seconds_each(drive, 12), 2),
        "share_of_a_face_crop": shares(known, 60),
        "share_of_a_crowd_scene": shares(crowd, 8),
    }
    path = Path(__file__).parent / "results" / "streetscape.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")
    print(path.read_text())


if __name__ == "__main__":
    main()
