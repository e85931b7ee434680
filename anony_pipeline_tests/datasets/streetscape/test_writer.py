import json
from collections import defaultdict

import numpy as np
import pytest

from anony_pipeline.config.schema import Source, Splits, Streetscape
from anony_pipeline.datasets import pp4av, splits, widerface
from anony_pipeline.datasets.streetscape import writer
from anony_pipeline.plates.styles import load_styles

SMALL = Streetscape(seed=3, people=8, scenes=8)


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    folder = tmp_path_factory.mktemp("streetscape")
    report = writer.write(SMALL, folder / "widerface", folder / "pp4av", workers=1)
    return folder / "widerface", folder / "pp4av", report


def files_of(root):
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def truth_of(root):
    return json.loads((root / "ground_truth.json").read_text())["images"]


def test_both_layouts_are_read_by_their_own_readers(roots):
    wider_root, drive_root, report = roots
    source = Source(name="w", layout="widerface", root=str(wider_root), exhaustive=("face",))
    wider = [widerface.read(source, split) for split in ("train", "val")]
    drive = pp4av.read(
        Source(name="p", layout="pp4av", root=str(drive_root), exhaustive=("face", "license_plate"), sequences=True)
    )
    sets = [*wider, drive]
    assert sum(len(one.images) for one in sets) == report.images == 8
    assert sum(len(image.boxes) for one in sets for image in one.images) == report.faces + report.plates
    assert report.plates > 0
    assert not [problem for one in sets for problem in one.problems if problem.scope != "note"]


def test_the_truth_names_every_labeled_box(roots):
    for root in roots[:2]:
        for regions in (image["regions"] for image in truth_of(root).values()):
            for region in regions:
                assert region["identity"]
                assert (region["serial"] is None) == (region["kind"] == "face")
                points = np.array(region["quad"] or region["landmarks"])
                x, y, width, height = region["bbox"]
                middle = points.mean(axis=0)
                assert x - 3 <= middle[0] <= x + width + 3
                assert y - 3 <= middle[1] <= y + height + 3


def test_rows_are_those_of_the_real_files(roots):
    lines = (roots[0] / "wider_face_split" / "wider_face_train_bbx_gt.txt").read_text().splitlines()
    name, count = lines[0], int(lines[1])
    assert (roots[0] / "WIDER_train" / "images" / name).is_file()
    assert all(len(line.split()) == 10 for line in lines[2 : 2 + max(count, 1)])


def test_an_image_without_faces_bears_one_row_of_zeros(tmp_path):
    empty = {"WIDER_val/images/0--Parade/a.jpg": {"regions": []}}
    writer._write_wider_splits(tmp_path, empty)
    text = (tmp_path / "wider_face_split" / "wider_face_val_bbx_gt.txt").read_text()
    assert text == "0--Parade/a.jpg\n0\n" + "0 " * 10 + "\n"


def test_what_is_there_already_is_kept(roots):
    before = files_of(roots[0])
    report = writer.write(SMALL, roots[0], roots[1], workers=1)
    assert not report.written
    assert files_of(roots[0]) == before


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bytes_whatever_the_number_of_workers(roots, tmp_path):
    writer.write(SMALL, tmp_path / "w", tmp_path / "p", workers=2)
    assert files_of(tmp_path / "w") == files_of(roots[0])
    assert files_of(tmp_path / "p") == files_of(roots[1])


def test_other_settings_are_drawn_anew(tmp_path):
    writer.write(Streetscape(people=2, scenes=2), tmp_path / "w", tmp_path / "p", workers=1)
    report = writer.write(Streetscape(people=3, scenes=2), tmp_path / "w", tmp_path / "p", workers=1)
    assert report.written


@pytest.mark.parametrize("family", ["base", "demo"])
@pytest.mark.parametrize("scenes", [24, 140])
def test_people_and_vehicles_of_train_and_val_are_disjoint(family, scenes):
    """The plan's own splits agree with those that the unified set will make of it."""
    jobs = writer.jobs_of(Streetscape(people=30, scenes=scenes, family=family))
    people, vehicles = defaultdict(set), defaultdict(set)
    for job in jobs:
        if job.layout == "widerface":
            people[job.name.split("/")[0].removeprefix("WIDER_")] |= {*job.plan.leads, *job.plan.others}
    drives = [job for job in jobs if job.layout == "pp4av"]

    class Image:
        def __init__(self, name):
            self.file_name, self.group = name, name.split("/")[1]

    chosen = splits.of_sequences(
        [Image(job.name) for job in drives], Splits(block_frames=4, val_every=3, border_frames=0)
    )
    for job, split in zip(drives, chosen, strict=True):
        people[split] |= set(job.plan.people)
        vehicles[split] |= {vehicle.serial for vehicle in job.plan.vehicles}
    assert set(chosen) == {"train", "val"}
    assert not people["train"] & people["val"]
    assert not vehicles["train"] & vehicles["val"]


def test_everybody_of_val_is_in_front_of_three_scenes_or_more():
    jobs = writer.jobs_of(Streetscape())
    counts = defaultdict(int)
    for job in jobs:
        if job.name.startswith("WIDER_val"):
            for person in job.plan.leads:
                counts[person] += 1
    assert len(counts) == 25
    assert min(counts.values()) >= 3


def test_the_families_share_nobody():
    people = {
        family: {p for pool in writer._people_of(Streetscape(family=family, seed=seed)) for p in pool}
        for family in ("base", "demo")
        for seed in (0, 49_999)
    }
    assert not people["base"] & people["demo"]


def test_base_streets_have_plates_of_many_colors_and_the_demo_has_styles_of_its_own():
    styles = {family: {style for _, style, _ in writer.GROUPS[family]} for family in ("base", "demo")}
    assert styles["demo"] - styles["base"] == {"NL", "CH"}
    backgrounds = {load_styles()[style].colors.background for style in styles["base"]}
    red, green, blue = np.array([[int(color[at : at + 2], 16) for at in (1, 3, 5)] for color in backgrounds]).T
    is_yellow, is_blue, is_dark = (green > blue + 60) & (red > 200), blue > red + 60, red + green + blue < 150
    assert all(chosen.any() for chosen in (is_yellow, is_blue, is_dark))
