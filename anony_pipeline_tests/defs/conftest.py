"""The road with the library's heavy functions replaced: what is left is the graph itself."""

import contextlib
import shutil
from types import SimpleNamespace

import dagster as dg
import numpy as np
import pytest
import yaml

from anony_pipeline.config import loading
from anony_pipeline.config.schema import Gates
from anony_pipeline.datasets import coco
from anony_pipeline.definitions import defs
from anony_pipeline.defs import checkpoints
from anony_pipeline.evaluation.schema import (
    DataFacts,
    Gate,
    JudgeEntry,
    Row,
    Scorecard,
    Subject,
    figure,
    null,
    rules,
)
from anony_pipeline.models.judges import JudgeCard
from anony_pipeline.ops import images
from anony_pipeline.storage import atomic, manifests
from anony_pipeline.targets.report import TargetReport

FORMAT = "anony_pipeline.checkpoint/1"


@contextlib.contextmanager
def instance_in(folder):
    (folder / "dagster").mkdir()
    with dg.instance_for_test(temp_dir=str(folder / "dagster")) as instance:
        yield instance


@pytest.fixture
def instance(tmp_path):
    with instance_in(tmp_path) as found:
        yield found


@pytest.fixture
def house(tmp_path, monkeypatch):
    """An experiment with a unified set of four pictures, and a library that only writes down what it is asked for."""
    return House(tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """One run of planb that many tests look at, and none changes: house, instance and result."""
    folder = tmp_path_factory.mktemp("road")
    with pytest.MonkeyPatch.context() as monkeypatch, instance_in(folder) as instance:
        house = House(folder, monkeypatch)
        result = house.run("planb", instance)
        assert result.success
        yield SimpleNamespace(house=house, instance=instance, result=result)


class House:
    """An experiment whose training, judging and drawing are stand-ins; data, checks and bookkeeping are real."""

    def __init__(self, folder, monkeypatch):
        self.folder, self.asked = folder, []
        self.passing = False
        self.curves = folder / "curves.png"
        self.curves.write_bytes(b"\x89PNG drawn")
        self.file = folder / "experiment.yaml"
        sources = [
            {"name": name, "layout": name, "root": f"raw/{name}", "exhaustive": ["face", "license_plate"]}
            for name in ("widerface", "pp4av")
        ]
        paths = {name: name for name in ("outputs", "unified", "targets", "cache", "weights")}
        self.file.write_text(
            yaml.safe_dump({"name": "house", "paths": {**paths, "private": "private"}, "data": {"sources": sources}})
        )
        self.config = loading.load([self.file])
        self._write_data()
        self._replace(monkeypatch)

    def _write_data(self):
        for number, split in enumerate(("train", "val")):
            records, annotations = [], []
            for i in range(2):
                name = f"{split}_{i}.png"
                noise = np.random.default_rng(10 * number + i).integers(0, 256, (40, 60, 3), dtype=np.uint8)
                images.write(self.folder / "raw" / "pp4av" / name, noise)
                style = ("FR", None)[i]
                records.append(
                    {"id": i + 1, "file_name": name, "width": 60, "height": 40, "source": "pp4av", "plate_style": style}
                )
                box = {"bbox": [5, 5, 20, 10], "area": 200, "iscrowd": 0, "category_id": 2}
                annotations.append({"id": i + 1, "image_id": i + 1, **box})
            (self.folder / "raw" / "widerface").mkdir(parents=True, exist_ok=True)
            info = {"sources": {"pp4av": {"root": "../raw/pp4av"}}}
            coco.save(self.folder / "unified" / f"unified_{split}.json", info, records, annotations)

    def _replace(self, monkeypatch):
        from anony_pipeline.anonymize import loading as anonymizers
        from anony_pipeline.evaluation import judges, scorecard
        from anony_pipeline.targets import faces, plates
        from anony_pipeline.training import loop

        def judge(kind):
            return SimpleNamespace(judge=JudgeCard(kind, "stand-in", "none", "none", "0" * 64))

        held_out = SimpleNamespace(cards=lambda: {"reader/held_out": (judge("reader").judge, "held_out")})
        monkeypatch.setattr(anonymizers, "load_verifiers", lambda *_: (judge("recognizer"), judge("reader")))
        monkeypatch.setattr(judges, "load_held_out", lambda *_: held_out)
        monkeypatch.setattr(faces, "make_face_targets", lambda *_, **__: TargetReport("faces", "self"))
        monkeypatch.setattr(
            plates,
            "make_plate_targets",
            lambda _config, _coco, styles, **_: {
                style: TargetReport(style, "render_fit", made=len(style)) for style in styles
            },
        )
        monkeypatch.setattr(loop, "train", self.train)
        monkeypatch.setattr(scorecard, "evaluate", self.evaluate)

    def train(self, config, *, mode, on_event=None, **_):
        self.asked.append(("train", mode))
        on_event({"event": "step", "stage": mode, "step": 1, "l1": 0.5})
        parent = "pretrained" if mode == "pretrain" else "checkpoints"
        return SimpleNamespace(checkpoint=self.checkpoint(3, parent=parent), step=3, finished=True, curves=self.curves)

    def checkpoint(self, step, parent="checkpoints", content="weights"):
        """Write a complete checkpoint."""
        path = self.folder / "outputs" / parent / f"step_{step:06d}"
        with atomic.folder(path) as part:
            (part / "detector.safetensors").write_text(content)
            (part / "optimizer.safetensors").write_text("moments")
            shutil.copyfile(self.file, part / "config.yaml")
            manifests.write(part, {"format": FORMAT, "step": step})
        return path

    def evaluate(self, config, checkpoint, styles, output):
        """Write a scorecard without looking at anything but the checkpoint's sums, as the real one does first."""
        manifests.read(checkpoint)
        self.asked.append(("evaluate", checkpoint.name, styles))
        asked = styles or sorted({"DE", "FR", "NL", "unspecified"})
        rows = [self._row("overall", 0.5), *(self._row(f"style:{style}", 0.1 * len(style)) for style in asked)]
        card = Scorecard(
            name=config.name,
            subject=Subject(checkpoint=checkpoint.name, step=3, sha256=checkpoints.version(checkpoint)),
            data=DataFacts(
                fingerprint="0",
                images=2,
                faces=0,
                plates=2,
                identities=0,
                serials=0,
                left_out_crowd=0,
                procedural=False,
            ),
            judges={
                "reader/held_out": JudgeEntry(
                    kind="reader", name="a", library="b", weights="c", sha256="d", panel="held_out"
                )
            },
            rows=tuple(rows),
            gates=tuple(
                Gate(
                    name=name,
                    metric=name,
                    passed=self.passing,
                    value=0.5 if self.passing else None,
                    bound=0.5,
                    rule="at least",
                    reason=None if self.passing else "the judge is blind",
                )
                for name, _, _ in rules(Gates())
            ),
            treated={},
            styles_of_this_run=None if styles is None else tuple(styles),
            overall_of_this_run=styles is None,
            command="",
        )
        atomic.write_text(output / "scorecard.json", card.model_dump_json())
        atomic.write_text(output / "report" / "index.html", "<html></html>")
        return card

    @staticmethod
    def _row(slice_name, value):
        figures = {"fid": figure("fid", value), "reid_rank1": null("reid_rank1", "too few people")}
        return Row(method="anonymizer", boxes="detected", panel="held_out", slice=slice_name, figures=figures)

    def trained(self, instance):
        """What a joint training leaves: a checkpoint, and Dagster told of it."""
        checkpoint = self.checkpoint(3)
        tags = {checkpoints.VERSION_TAG: checkpoints.version(checkpoint)}
        entry = {"checkpoint": dg.MetadataValue.path(str(checkpoint))}
        instance.report_runless_asset_event(dg.AssetMaterialization(checkpoints.JOINT, metadata=entry, tags=tags))
        checkpoints.register(instance, checkpoint.name)
        return checkpoint

    @property
    def run_config(self):
        return {"resources": {"experiment": {"config": {"layers": [str(self.file)], "overrides": []}}}}

    def run(self, job, instance, tags=None, **options):
        """Run a job of the definitions in this process."""
        return defs.resolve_job_def(job).execute_in_process(
            run_config=self.run_config, instance=instance, tags=tags, raise_on_error=False, **options
        )
