"""A release takes along what was judged, the profile and the terms, and names no folder of the machine that made it."""

import json

import pytest

from anony_pipeline.anonymize.loading import open_checkpoint
from anony_pipeline.config import loading
from anony_pipeline.config.schema import Gates
from anony_pipeline.errors import AnonyPipelineError
from anony_pipeline.evaluation import release, scorecard
from anony_pipeline.evaluation.schema import FORMAT, Gate, Licence, Subject, rules
from anony_pipeline.storage import atomic, manifests
from anony_pipeline_tests.evaluation.test_comparison import card
from anony_pipeline_tests.training import tiny


def gates(passed=True):
    """All gates, of which the leak rate's may fail."""
    made = [
        Gate(name=name, metric=name, passed=True, value=bound, bound=bound, rule=rule)
        for name, rule, bound in rules(Gates())
    ]
    if not passed:
        failed = {"passed": False, "value": 0.3, "reason": "0.3 is not at most 0.01"}
        made = [gate.model_copy(update=failed) if gate.name == "plate_leak_rate" else gate for gate in made]
    return tuple(made)


def judged_checkpoint(tmp_path, config):
    """A checkpoint with a scorecard that passed its gate; its folder and version."""
    checkpoint = tmp_path / "out" / "checkpoints" / "step_000040"
    with atomic.folder(checkpoint) as part:
        (part / "adapters").mkdir()
        (part / "adapters" / "adapters.json").write_text("{}")
        (part / "optimizer.json").write_text("{}")
        (part / "config.yaml").write_text(loading.dump(config, checkpoint))
        manifests.write(part, {"format": "anony_pipeline.checkpoint/1", "step": 40})
    version = manifests.sha256_of(checkpoint / manifests.NAME)
    judged = card(40).model_copy(
        update={
            "command": f"anony evaluate --checkpoint {checkpoint}",
            "gates": gates(),
            "subject": Subject(checkpoint=checkpoint.name, step=40, sha256=version),
        }
    )
    atomic.write_json(tmp_path / "scorecard.json", judged.model_dump(mode="json"))
    return checkpoint, version


def test_a_checkpoint_with_planted_canaries_is_never_released(tmp_path):
    checkpoint, _ = judged_checkpoint(tmp_path, tiny.make_config(tmp_path, training__canaries=6))
    made = release.release(checkpoint, tmp_path / "scorecard.json", tmp_path / "released")
    assert not made.released
    assert "3 faces were trained on as they are" in made.reasons[0]
    assert not (tmp_path / "released").exists()


def test_a_release_names_no_folder_and_says_where_it_comes_from(tmp_path):
    config = tiny.make_config(tmp_path, model__plate_style=str(tmp_path / "style.onnx"))
    checkpoint, version = judged_checkpoint(tmp_path, config)

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


@pytest.fixture
def checkpoint(tmp_path):
    """A checkpoint with what leaves and what stays, and a function that writes its scorecard."""
    folder = tmp_path / "step_000040"
    for name in ("adapters/face/lora.safetensors", "optimizer.safetensors", "state.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    (folder / "config.yaml").write_text(loading.dump(tiny.make_config(tmp_path), folder))
    manifests.write(folder, {"format": "anony_pipeline.checkpoint/1", "step": 40})

    def judge(passed=True, **changes):
        made = card(40).model_copy(update={"gates": gates(passed), **changes})
        subject = made.subject.model_copy(update={"sha256": manifests.sha256_of(folder / manifests.NAME)})
        scorecard.save(made.model_copy(update={"subject": subject}), tmp_path)
        return release.release(folder, tmp_path / "scorecard.json", tmp_path / "release")

    return judge


def terms(commercial_use):
    return (Licence(what="images", name="pp4av", licence="some", commercial_use=commercial_use, trained_with=True),)


@pytest.mark.parametrize("commercial_use", [True, False])
def test_the_profile_and_the_terms_go_along(checkpoint, tmp_path, commercial_use):
    done = checkpoint(profile="blur", licences=terms(commercial_use))
    assert (done.released, done.commercial_use) == (True, commercial_use)
    manifest = manifests.read(tmp_path / "release")
    assert (manifest["profile"], manifest["commercial_use"]) == ("blur", commercial_use)
    assert open_checkpoint(tmp_path / "release").config.profile == "blur"
    assert manifest["licences"][0]["name"] == "pp4av"
    assert set(manifest["files"]) == {"adapters/face/lora.safetensors", "config.yaml", "scorecard.json"}


def test_unknown_terms_do_not_allow_commercial_use(checkpoint, tmp_path):
    assert not checkpoint().commercial_use
    assert manifests.read(tmp_path / "release")["commercial_use"] is False


def test_a_failed_gate_says_by_how_much_and_nothing_is_written(checkpoint, tmp_path):
    done = checkpoint(passed=False)
    assert done.reasons == ("gate plate_leak_rate: 0.3 is not at most 0.01",)
    assert not (tmp_path / "release").exists()


def test_a_scorecard_without_a_gate_that_is_asked_now_is_not_enough(checkpoint, tmp_path):
    done = checkpoint(gates=tuple(gate for gate in gates() if gate.name != "memorization_gap"))
    assert done.reasons == ("the scorecard does not know the gates memorization_gap: evaluate the checkpoint again",)
    assert not (tmp_path / "release").exists()


def test_a_scorecard_of_format_1_is_read_and_one_of_a_later_format_is_refused_by_name(tmp_path):
    file = tmp_path / "scorecard.json"
    content = json.loads(card().model_dump_json(exclude={"profile", "licences", "inspection"}))
    file.write_text(json.dumps({**content, "format": "anony_pipeline.scorecard/1"}))
    found = scorecard.load(file)
    assert (found.format, found.profile, found.commercial_use) == (FORMAT, None, None)
    file.write_text(json.dumps({**content, "format": "anony_pipeline.scorecard/9"}))
    with pytest.raises(AnonyPipelineError, match="scorecard/9"):
        scorecard.load(file)
