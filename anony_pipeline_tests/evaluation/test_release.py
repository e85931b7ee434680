"""What is released names no folder of the machine that made it."""

import json

from anony_pipeline.anonymize.loading import open_checkpoint
from anony_pipeline.config import loading
from anony_pipeline.evaluation import release, scorecard
from anony_pipeline.evaluation.schema import Gate, Subject
from anony_pipeline.storage import atomic, manifests
from anony_pipeline_tests.evaluation.test_comparison import card
from anony_pipeline_tests.training import tiny


def test_a_release_names_no_folder_and_says_where_it_comes_from(tmp_path):
    checkpoint = tmp_path / "out" / "checkpoints" / "step_000040"
    config = tiny.make_config(tmp_path, model__plate_style=str(tmp_path / "style.onnx"))
    with atomic.folder(checkpoint) as part:
        (part / "adapters").mkdir()
        (part / "adapters" / "adapters.json").write_text("{}")
        (part / "optimizer.json").write_text("{}")
        (part / "config.yaml").write_text(loading.dump(config, checkpoint))
        manifests.write(part, {"format": "anony_pipeline.checkpoint/1", "step": 40})
    version = manifests.sha256_of(checkpoint / manifests.NAME)
    gate = Gate(name="kid", metric="kid", passed=True, value=0.1, bound=0.2, rule="at most")
    judged = card(40).model_copy(
        update={
            "command": f"anony evaluate --checkpoint {checkpoint}",
            "gates": (gate,),
            "subject": Subject(checkpoint=checkpoint.name, step=40, sha256=version),
        }
    )
    atomic.write_json(tmp_path / "scorecard.json", judged.model_dump(mode="json"))

    made = release.release(checkpoint, tmp_path / "scorecard.json", tmp_path / "released")

    files = [path for path in made.folder.rglob("*") if path.is_file()]
    assert {path.name for path in files} == {"adapters.json", "config.yaml", "scorecard.json", "manifest.json"}
    for path in files:
        assert str(tmp_path) not in path.read_text(), path.name
    assert loading.load([made.folder / "config.yaml"]).model.plate_style == "style.onnx"
    assert scorecard.load(made.folder / "scorecard.json").command == "anony evaluate --checkpoint step_000040"
    manifest = json.loads((made.folder / "manifest.json").read_text())
    assert manifest["released_from"] == {"checkpoint": "step_000040", "sha256": version}
    assert manifests.read(made.folder)["step"] == 40


def test_a_release_is_opened_with_the_weights_of_the_machine_that_it_came_to(tmp_path):
    there, here = tmp_path / "there", tmp_path / "here"
    trained = tiny.make_config(there, model__generator__diffusers={"model_id": str(there / "sd2")}, face_steps=2)
    with atomic.folder(tmp_path / "release") as part:
        (part / "config.yaml").write_text(loading.dump_for_others(trained))
        manifests.write(part, {"format": "anony_pipeline.checkpoint/1", "step": 40})
    own = tiny.make_config(here, model__generator__diffusers={"model_id": str(here / "sd2")})
    opened = open_checkpoint(tmp_path / "release", own).config
    assert opened.paths == own.paths
    assert opened.model.generator.diffusers.model_id == str(here / "sd2")
    assert opened.face_steps == 2
    assert opened.model.generator.face_size == trained.model.generator.face_size
    assert open_checkpoint(tmp_path / "release").config.model.generator.diffusers.model_id == "sd2"
