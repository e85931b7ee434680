"""A whole set, anonymized: every image, every label but who it was, and also what no label says."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from anony_pipeline.anonymize import dataset
from anony_pipeline.config import loading
from anony_pipeline.datasets import coco
from anony_pipeline.errors import DatasetError, PrivacyError
from anony_pipeline.ops import images
from anony_pipeline.structures.regions import Kind, Region

LABELED, UNLABELED = (5, 5, 25, 15), (35, 20, 45, 30)


class Blackout:
    """An anonymizer that fills boxes black, with a detector that knows where everything is."""

    detect = "there is one"

    @staticmethod
    def find(pictures):
        found = [Region(Kind.PLATE, LABELED), Region(Kind.FACE, UNLABELED), Region(Kind.PLATE, UNLABELED)]
        return [found for _ in pictures]

    @staticmethod
    def anonymize_batch(jobs):
        done = []
        for job in jobs:
            picture = job.image_rgb.copy()
            for region in job.regions:
                x_min, y_min, x_max, y_max = map(int, region.box_xyxy)
                picture[y_min:y_max, x_min:x_max] = 0
            rows = [SimpleNamespace(kind=region.kind, method="solid") for region in job.regions]
            done.append(SimpleNamespace(image_rgb=picture, rows=rows))
        return done


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.setattr(dataset, "load_anonymizer", lambda *_, **__: Blackout())
    file = tmp_path / "experiment.yaml"
    source = {"name": "s", "layout": "pp4av", "root": "raw", "exhaustive": ["license_plate"]}
    file.write_text(yaml.safe_dump({"paths": {"unified": "unified"}, "data": {"sources": [source]}}))
    for split in ("train", "val"):
        picture = np.full((40, 60, 3), 200, np.uint8)
        images.write(tmp_path / "raw" / f"{split}.png", picture)
        image = {"id": 1, "file_name": f"{split}.png", "source": "s", "width": 60, "height": 40}
        image["not_exhaustive_category_ids"] = [1]
        label = {"id": 1, "image_id": 1, "category_id": 2, "bbox": [5, 5, 20, 10], "area": 200, "iscrowd": 0}
        label |= {"identity": "plate-1", "serial": "AB-123-CD"}
        coco.save(
            tmp_path / "unified" / f"unified_{split}.json", {"sources": {"s": {"root": "../raw"}}}, [image], [label]
        )
    return loading.load([file])


def test_every_image_is_written_with_its_labels_and_loads_again(config, tmp_path):
    report = dataset.anonymize_dataset(config, tmp_path / "checkpoint", tmp_path / "out")
    assert report.images == 2
    for split in ("train", "val"):
        again = coco.load(tmp_path / "out" / f"unified_{split}.json")
        picture = images.read(again.image_file(again.images[0]))
        assert not picture[5:15, 5:25].any()
        assert [label["bbox"] for label in again.annotations] == [[5, 5, 20, 10]]


def test_who_it_was_is_not_in_the_labels(config, tmp_path):
    dataset.anonymize_dataset(config, tmp_path / "checkpoint", tmp_path / "out")
    text = (tmp_path / "out" / "unified_train.json").read_text()
    assert "AB-123-CD" not in text
    assert "identity" not in json.loads(text)["annotations"][0]


def test_what_is_unlabeled_is_looked_for_where_labels_may_be_missing_and_only_there(config, tmp_path):
    report = dataset.anonymize_dataset(config, tmp_path / "checkpoint", tmp_path / "out")
    assert report.found == 2, "one face an image; plates are labeled exhaustively"
    assert dict(report.regions) == {"license_plate solid": 2, "face solid": 2}
    assert not images.read(tmp_path / "out/s/train.png")[20:30, 35:45].any()


def test_originals_are_never_written_over(config, tmp_path):
    with pytest.raises(PrivacyError, match="where the originals lie"):
        dataset.anonymize_dataset(config, tmp_path / "checkpoint", tmp_path / "raw")


@pytest.mark.parametrize("output", ["b/street", "b", "b/street/deeper", "a/wide"])
def test_originals_of_no_source_are_written_over(tmp_path, monkeypatch, output):
    """Of two sources, whose images have equal names."""
    monkeypatch.setattr(dataset, "load_anonymizer", lambda *_, **__: pytest.fail("it must not come so far"))
    roots = {"wide": "a/wide", "street": "b/street"}
    sources = [{"name": name, "layout": "pp4av", "root": root, "exhaustive": []} for name, root in roots.items()]
    file = tmp_path / "experiment.yaml"
    file.write_text(yaml.safe_dump({"paths": {"unified": "unified"}, "data": {"sources": sources}}))
    for split in ("train", "val"):
        records = []
        for number, (name, root) in enumerate(roots.items(), start=1):
            images.write(tmp_path / root / f"{split}.png", np.full((40, 60, 3), 200, np.uint8))
            records.append({"id": number, "file_name": f"{split}.png", "source": name, "width": 60, "height": 40})
        info = {"sources": {name: {"root": f"../{root}"} for name, root in roots.items()}}
        coco.save(tmp_path / "unified" / f"unified_{split}.json", info, records, [])
    with pytest.raises(PrivacyError, match="where the originals lie"):
        dataset.anonymize_dataset(loading.load([file]), tmp_path / "checkpoint", tmp_path / output)


def test_the_labels_of_the_originals_are_never_written_over(config, tmp_path):
    before = (tmp_path / "unified" / "unified_train.json").read_bytes()
    with pytest.raises(PrivacyError, match="over those of the originals"):
        dataset.anonymize_dataset(config, tmp_path / "checkpoint", tmp_path / "unified")
    assert (tmp_path / "unified" / "unified_train.json").read_bytes() == before


@pytest.mark.parametrize("name", ["../raw/train.png", "a/../../train.png", "/train.png"])
def test_a_name_that_leads_out_of_the_output_is_refused(config, tmp_path, monkeypatch, name):
    monkeypatch.setattr(dataset, "load_anonymizer", lambda *_, **__: pytest.fail("it must not come so far"))
    file = tmp_path / "unified" / "unified_train.json"
    content = json.loads(file.read_text())
    content["images"][0]["file_name"] = name
    file.write_text(json.dumps(content))
    with pytest.raises(DatasetError, match=r"leads out of its folder"):
        dataset.anonymize_dataset(config, tmp_path / "checkpoint", tmp_path / "out")
