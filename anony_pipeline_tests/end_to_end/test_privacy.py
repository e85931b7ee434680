"""A whole run on pictures that the program must take for photographs; then every file that it left is looked into.

The people are drawn, so that we know who they are and what their plates say; the program is not told so.
"""

import json
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from anony_pipeline.anonymize.loading import load_verifiers
from anony_pipeline.anonymize.verifying import plate_crop
from anony_pipeline.config import loading
from anony_pipeline.datasets import loaders
from anony_pipeline.datasets.sources import SPLITS
from anony_pipeline.evaluation import references
from anony_pipeline.evaluation.judges import digest, load_held_out
from anony_pipeline.evaluation.references import References
from anony_pipeline.models.recognizer import align
from anony_pipeline.ops.crops import cut, window_around
from anony_pipeline.storage import private
from anony_pipeline.structures import boxes
from anony_pipeline.structures.regions import Kind
from anony_pipeline_tests.end_to_end import leaks, smoke
from anony_pipeline_tests.end_to_end.leaks import Secrets, walk

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]

OVERLAY = """
name: photographs
data:
  streetscape: null
  sources:
    - {name: widerface, layout: widerface, root: ../raw/widerface, exhaustive: [face]}
    - {name: pp4av, layout: pp4av, root: ../raw/pp4av, exhaustive: [face, license_plate],
       plate_styles: {paris: FR, netherlands_day: NL, netherlands_night: NL, stuttgart: DE, zurich: CH}}
evaluation:
  baselines: [none, blur, solid, inpaint, other_face]
"""
PRIVATE = ("data/smoke/targets", "data/smoke/cache", "outputs/smoke/private")


@dataclass
class House:
    """The folder of the run, what is known of the originals, and where original pixels may be."""

    home: Path
    secrets: Secrets
    closed: tuple[Path, ...]

    def leaks(self, private=()):
        found = [
            leak
            for name in ("data", "outputs", "dagster_home")
            for leak in walk(self.home / name, self.secrets, tuple(private))
        ]
        return [f"{leak.file.relative_to(self.home)}: {leak.what} ({leak.where})" for leak in found]


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """From raw pictures to scorecard, a folder anonymized by the checkpoint, and that folder judged and attacked."""
    home = smoke.make_home(tmp_path_factory.mktemp("photographs"))
    anony(home, "streetscape", "--output", "raw", "--people", "6", "--scenes", "30", "--seed", "3")
    truth = {}
    for path in (home / "raw").glob("*/ground_truth.json"):
        truth |= json.loads(path.read_text())["images"]
        path.unlink()
    (home / "configs" / "photographs.yaml").write_text(OVERLAY)
    layers = ["configs/smoke.yaml", "configs/photographs.yaml"]
    run = home / "run.yaml"
    run.write_text(yaml.safe_dump({"resources": {"experiment": {"config": {"layers": layers, "overrides": []}}}}))
    command(home, *smoke.job(home, "planb", run)[2:])
    config = loading.load([home / layer for layer in layers])
    boxes_file = named_boxes(config, truth, home / "raw" / "boxes.json")
    checkpoint = max((home / "outputs/smoke/checkpoints").glob("step_*"))
    anony(
        home, "anonymize", "raw/pp4av", "--checkpoint", checkpoint, "--boxes", boxes_file, "--output", "outputs/pp4av"
    )
    judged = ["--originals", "raw/pp4av", "--anonymized", "outputs/pp4av", "--boxes", boxes_file]
    attacks = "evaluation.attacks={kinds: [parrot, restoration], steps: 2}"
    anony(home, "evaluate", *judged, "--output", "outputs/judged", "--set", attacks)
    secrets = secrets_of(config, truth, home)
    secrets.embeddings += leaks.directions(keep_references(config))
    return House(home, secrets, tuple(home / name for name in PRIVATE))


def keep_references(config):
    """Statistics are kept of more regions than this run has, so each is cut out at several widths; their features."""
    features = load_held_out(config, torch.device("cpu")).features
    crops = [
        cut(example.image_rgb, window_around(region.box_xyxy, (96, 96), context), (96, 96))
        for split in SPLITS
        for example in loaders.examples(loaders.open_split(config, split))
        for region in example.regions
        for context in (1.2, 1.3, 1.4, 1.6)
    ]
    values = features.extract(crops)
    known = References(features.judge, [digest(crop) for crop in crops], Path(config.paths.cache))
    known.gaussian(values, np.arange(len(values)))
    known.own_sums(values, np.ones((1, len(values))), np.arange(len(values)))
    return values


def named_boxes(config, truth, path):
    """The unified boxes of one source with what its owner knows of them: whose they are, and what plates say."""
    document = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "face"}, {"id": 2, "name": "plate"}]}
    for split in SPLITS:
        for example in loaders.examples(loaders.open_split(config, split)):
            if example.image["source"] == "pp4av":
                document["images"].append({k: example.image[k] for k in ("id", "file_name", "width", "height")})
                for region, annotation in zip(example.regions, example.annotations, strict=True):
                    known = known_of(region, truth[example.image["file_name"]]["regions"])
                    document["annotations"].append({**annotation, **known})
    path.write_text(json.dumps(document))
    return path


def known_of(region, candidates):
    """Identity and serial of the true region that a box is of."""
    true = np.array([[x, y, x + w, y + h] for x, y, w, h in (c["bbox"] for c in candidates)], np.float32)
    best = candidates[int(boxes.iou(boxes.as_boxes([region.box_xyxy]), true)[0].argmax())]
    return {name: best[name] for name in ("identity", "serial") if best.get(name)}


def secrets_of(config, truth, home):
    """The originals' regions, what every judge computes of them, what every judge reads in them, and who they are."""
    regions = {name: found["regions"] for name, found in truth.items()}
    texts = {
        region[name]
        for found in regions.values()
        for region in found
        for name in ("identity", "serial")
        if region.get(name)
    }
    elsewhere = config.model_copy(update={"paths": config.paths.model_copy(update={"cache": str(home / "judging")})})
    cpu = torch.device("cpu")
    recognizer, reader = load_verifiers(elsewhere, cpu)
    held_out = load_held_out(elsewhere, cpu)
    pictures, faces, plates = [], {112: [], 128: []}, []
    for split in SPLITS:
        for example in loaders.examples(loaders.open_split(config, split)):
            for region in example.regions:
                x0, y0, x1, y1 = (int(v) for v in region.box_xyxy)
                pictures.append(example.image_rgb[y0:y1, x0:x1])
                if region.kind is Kind.FACE:
                    for size, crops in faces.items():
                        crops.append(align(example.image_rgb, region, size))
                else:
                    plates.append(plate_crop(example.image_rgb, region))
    embeddings = [judge.embed(faces[judge.input_size]) for judge in (recognizer, *held_out.recognizers.values())]
    for judge in (reader, *held_out.readers.values()):
        texts |= {reading.text for reading in judge.read(plates) if reading.confidence > 0.5}
    return Secrets(pictures, embeddings, texts)


def anony(home, *arguments):
    command(home, "anony_pipeline", *(str(part) for part in arguments))


def command(home, *arguments):
    done = smoke.command(home, *arguments)
    assert done.returncode == 0, done.stderr[-5000:] + done.stdout[-2000:]


def test_the_secrets_are_there_to_be_found(house):
    """What is looked for can be found: in the private folders, and in the boxes that the owner keeps."""
    assert len(house.secrets.regions_rgb) > 50
    assert all(len(known) > 20 for known in house.secrets.embeddings)
    assert len(list((house.closed[1] / references.FOLDER).glob("*.npz"))) >= 2
    assert {leak.what.split()[0] for leak in walk(house.home / "raw", house.secrets)} >= {"text", "pixels"}
    assert any("pixels" in leak.what for leak in walk(house.closed[0], house.secrets))


def test_no_embedding_no_read_text_and_no_original_pixel_lies_where_it_must_not(house):
    assert house.leaks(house.closed) == []


def test_private_pictures_that_get_out_are_found(house):
    out = house.home / "outputs/smoke/report/copies"
    out.mkdir()
    for sample in sorted((house.closed[2] / "val_samples").rglob("face_*.png"))[:6]:
        shutil.copy(sample, out / f"{sample.parent.name}_{sample.name}")
    try:
        assert walk(out, house.secrets, house.closed)
    finally:
        shutil.rmtree(out)


def test_private_files_are_their_owners_alone_and_say_when_they_go(house):
    files = [path for folder in house.closed for path in folder.rglob("*") if path.is_file()]
    pixels = [
        path for path in files if "easyocr" not in path.parts
    ]  # a reader's weights: no pixels, closed all the same
    assert pixels
    for file in files:
        assert any(stat.S_IMODE(parent.stat().st_mode) == 0o700 for parent in file.parents), file
    for file in pixels:
        assert any((parent / private.MARKER).exists() for parent in file.parents), f"no marker above {file}"


def test_purge_leaves_no_original_pixel(house, tmp_path):
    home = tmp_path / "home"
    away = shutil.ignore_patterns("raw", "dagster_home", "pp4av", "plate_samples")  # they were looked into already
    shutil.copytree(house.home, home, ignore=away)
    anony(home, "purge")
    assert all((home / name).is_dir() for name in PRIVATE), "their time has not come"
    (home / "dagster_home").mkdir()
    anony(home, "purge", "--all")
    pixels = Secrets(house.secrets.regions_rgb)
    assert House(home, pixels, ()).leaks() == []
