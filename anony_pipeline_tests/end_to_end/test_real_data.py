"""The whole road on photographs: what the judges can't see is null with a reason, and nothing private lies about.

Set ANONY_REAL_DATA to a folder with `widerface/` and `pp4av/` in their own layouts. The files are read where they lie.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from anony_pipeline.config import loading

REAL = os.environ.get("ANONY_REAL_DATA")
ROOT = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not REAL, reason="ANONY_REAL_DATA is not set: no photographs to work on"),
    pytest.mark.timeout(1800),
]

PRIVATE = ("targets", "cache", "private")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One run of planb with the smallest counts, in a folder of its own, with its own Dagster history."""
    folder = tmp_path_factory.mktemp("real")
    layer = folder / "experiment.yaml"
    layer.write_text(
        yaml.safe_dump(
            {
                "name": "real",
                "paths": {name: name for name in ("outputs", "unified", *PRIVATE)},
                "data": {
                    "streetscape": None,
                    "sources": [
                        {
                            "name": "widerface",
                            "layout": "widerface",
                            "root": f"{REAL}/widerface",
                            "exhaustive": ["face"],
                        },
                        {
                            "name": "pp4av",
                            "layout": "pp4av",
                            "root": f"{REAL}/pp4av",
                            # Faces in these pictures are unlabeled, not absent.
                            "exhaustive": ["license_plate"],
                            "sequences": False,
                            "plate_styles": {"romania": "RO", "br": "BR", "us": None, "eu": None},
                        },
                    ],
                    "splits": {"block_frames": 10, "val_every": 3, "border_frames": 1},
                },
                "training": {"max_steps": 4, "pretrain_steps": 2, "batch_size": 2, "validation_regions": 8},
                "evaluation": {"max_images": 8, "baselines": ["none", "solid", "inpaint", "other_face"]},
            }
        )
    )
    config = folder / "run.yaml"
    layers = [str(ROOT / "configs/smoke.yaml"), str(layer)]
    config.write_text(yaml.safe_dump({"resources": {"experiment": {"config": {"layers": layers, "overrides": []}}}}))
    (folder / "dagster_home").mkdir()
    environment = {
        **os.environ,
        "DAGSTER_HOME": str(folder / "dagster_home"),
        "PYTHONWARNINGS": "ignore",
        "DAGSTER_DISABLE_TELEMETRY": "1",
    }
    command = [sys.executable, "-m", "dagster", "job", "execute", "-m", "anony_pipeline.definitions", "-j", "planb"]
    done = subprocess.run(
        [*command, "-c", str(config)], env=environment, cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-5000:]
    return folder


@pytest.fixture(scope="module")
def card(run):
    return json.loads((run / "outputs" / "scorecard.json").read_text())


def test_both_sources_are_unified_with_what_they_leave_unlabeled(run):
    files = [run / "unified" / f"unified_{split}.json" for split in ("train", "val")]
    images = [image for file in files for image in json.loads(file.read_text())["images"]]
    unlabeled = {image["source"]: image["not_exhaustive_category_ids"] for image in images}
    assert unlabeled == {"widerface": [2], "pp4av": [1]}


def test_every_null_has_a_reason_and_every_figure_a_value(card):
    figures = [figure for row in card["rows"] for figure in row["figures"].values()]
    assert figures
    assert all((figure["value"] is None) == bool(figure["reason"]) for figure in figures)


def test_a_judge_that_is_blind_on_photographs_gives_null_and_not_a_flattering_figure(card):
    blind = {key for key, judge in card["judges"].items() if judge["blind"]}
    assert blind, "judges trained on drawn people are expected to be blind on some photographs"
    for row in card["rows"]:
        for name, figure in row["figures"].items():
            if figure["judge"] in blind and name not in ("coverage", "coverage_outside"):
                assert figure["value"] is None, (row["method"], row["slice"], name)


def test_identity_is_not_known_on_these_data_and_is_not_made_up(card):
    assert card["data"]["identities"] == 0
    (row,) = [
        row
        for row in card["rows"]
        if (row["method"], row["boxes"], row["slice"], row["panel"])
        == ("anonymizer", "detected", "overall", "held_out")
    ]
    assert row["figures"]["reid_rank1"]["value"] is None


def test_nothing_is_released(card):
    assert not all(gate["passed"] for gate in card["gates"])


def test_private_files_lie_in_folders_that_are_closed_to_others(run):
    for file in (path for name in PRIVATE for path in (run / name).rglob("*") if path.is_file()):
        parents = [parent for parent in file.parents if run in parent.parents]
        assert any(parent.stat().st_mode & 0o077 == 0 for parent in parents), file


def test_no_original_pixels_lie_outside_the_private_folders(run):
    """Every image, and every image inside a page or a metadata value, is looked for among the originals' faces."""
    left = [
        path
        for path in run.rglob("*")
        if path.is_file() and not any(part in PRIVATE for part in path.relative_to(run).parts)
    ]
    pictures = [path for path in left if path.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp", ".bmp")]
    drawn = {path.name for path in pictures if "plate_samples" not in path.relative_to(run).parts}
    assert drawn <= {"curves.png"}, "only rendered plates and plots are pictures"
    for path in left:
        data = path.read_bytes()
        assert b"\xff\xd8\xff" not in data or path.suffix == ".safetensors", f"a JPEG inside {path}"
        if b"data:image/" in data:
            assert path.suffix == ".db" or "dagster_home" in path.parts, f"a picture inside {path}"
    # Dagster's metadata may hold rendered plates alone.
    assert not [path for path in left if path.suffix == ".html" and b"data:image/" in path.read_bytes()]


def test_the_run_left_the_originals_as_they_were(run):
    config = loading.load([ROOT / "configs/smoke.yaml", run / "experiment.yaml"])
    for source in config.data.sources:
        first = next(path for path in sorted(Path(source.root).rglob("*.jpg")))
        assert np.asarray(Image.open(first)).size > 0
        assert first.stat().st_mtime < (run / "experiment.yaml").stat().st_mtime
