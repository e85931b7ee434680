"""How fast procedural heads, plates and scenes are drawn on one core, and where the time goes.

Run `OMP_NUM_THREADS=1 python benchmarks/streetscape.py`: half a minute. Time is the process's own (CPU seconds), so
that other work on the machine changes it little.
"""

import cProfile
import json
import platform
import pstats
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from anony_pipeline.config.schema import Streetscape
from anony_pipeline.datasets import streetscape
from anony_pipeline.datasets.streetscape import casting, writer

PARTS = {
    "build_head": "expression, eyes, mouth, clothes",
    "_fit_density": "resample grids to the canvas",
    "_shadow_map": "shadows",
    "_cloud": "normals and shading",
    "_splat": "draw in depth order",
    "cover_of": "a new person's skin and hair",
    "draw_backdrop": "sky, houses, road",
    "_draw_vehicle": "vehicles",
    "develop": "lens, sensor",
}


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


def main() -> None:
    cv2.setNumThreads(1)
    jobs = writer.jobs_of(Streetscape())
    crowds = [job.plan for job in jobs if isinstance(job.plan, casting.CrowdPlan)]
    drives = [job.plan for job in jobs if isinstance(job.plan, casting.StreetPlan)]

    def known(number: int) -> object:
        return streetscape.render_face_crop(streetscape.sample_person(number % 10), np.random.default_rng(number), 128)

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
