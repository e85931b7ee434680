"""What has not changed is not made again; it says so, and can be forced; any change makes it anew."""

import json
import shutil
import tomllib

import dagster as dg
import pytest
import yaml

from anony_pipeline import project
from anony_pipeline.config import loading
from anony_pipeline.definitions import defs
from anony_pipeline.defs import checkpoints, unchanged
from anony_pipeline.models import weights
from anony_pipeline.storage import manifests

SKIPPABLE = {"unified_coco", "plate_samples", "face_pseudo_targets", "plate_pseudo_targets", "anonymized_val", "fid"}


def latest(instance, key):
    return instance.get_latest_materialization_event(dg.AssetKey(key)).asset_materialization


def skipped(instance):
    keys = SKIPPABLE | {"pretrained_generator", "joint_checkpoint"}
    found = {key: latest(instance, key).metadata.get(unchanged.SKIPPED) for key in keys}
    return {key for key, entry in found.items() if entry is not None and entry.value}


@pytest.fixture
def ran(house, instance):
    """After one run of planb; what it asked of the library is forgotten."""
    assert house.run("planb", instance).success
    house.asked.clear()
    return house


@pytest.mark.slow
def test_a_second_run_makes_nothing_and_says_so(ran, instance):
    result = ran.run("planb", instance)
    assert result.success
    assert ran.asked == []
    assert skipped(instance) == SKIPPABLE | {"pretrained_generator", "joint_checkpoint"}
    logged = [entry.user_message for entry in instance.all_logs(result.run_id)]
    assert sum("is unchanged" in message for message in logged) >= 8


@pytest.mark.slow
def test_what_was_skipped_keeps_its_version_and_its_figures(ran, instance):
    def shown():
        record = instance.fetch_materializations(
            dg.AssetRecordsFilter(asset_key=dg.AssetKey("fid"), asset_partitions=["FR"]), limit=1
        ).records[0]
        joint = latest(instance, "joint_checkpoint")
        return (
            record.asset_materialization.metadata["fid"].value,
            unchanged.version_of(record.asset_materialization),
            unchanged.version_of(joint),
            joint.metadata["checkpoint"].value,
        )

    before = shown()
    ran.run("planb", instance)
    assert shown() == before


@pytest.mark.slow
def test_it_can_be_forced(ran, instance):
    config = ran.run_config
    config["resources"]["experiment"]["config"]["force"] = True
    assert defs.resolve_job_def("planb").execute_in_process(run_config=config, instance=instance).success
    assert [what for what, *_ in ran.asked] == ["train", "train", "evaluate"]
    assert skipped(instance) == set()


@pytest.mark.slow
def test_another_configuration_makes_all_anew(ran, instance):
    values = yaml.safe_load(ran.file.read_text())
    ran.file.write_text(yaml.safe_dump(values | {"seed": 7}))
    ran.run("planb", instance)
    assert [what for what, *_ in ran.asked] == ["train", "train", "evaluate"]


@pytest.mark.slow
def test_other_data_make_all_anew_that_stands_on_them(ran, instance):
    file = ran.folder / "unified" / "unified_val.json"
    content = json.loads(file.read_text())
    content["annotations"][0]["bbox"] = [6, 5, 20, 10]
    file.write_text(json.dumps(content))
    ran.run("planb", instance)
    assert "evaluate" in [what for what, *_ in ran.asked]
    assert "plate_samples" in skipped(instance)


@pytest.mark.slow
def test_a_lost_checkpoint_is_made_again(ran, instance):
    shutil.rmtree(ran.folder / "outputs" / "checkpoints")
    ran.run("joint_training", instance)
    assert [what for what, *_ in ran.asked] == ["train"]


@pytest.mark.slow
def test_a_lost_scorecard_is_made_again(ran, instance):
    (ran.folder / "outputs" / "scorecard.json").unlink()
    assert ran.run("evaluate", instance).success
    assert [what for what, *_ in ran.asked] == ["evaluate"]


@pytest.mark.slow
def test_another_checkpoint_is_judged(ran, instance):
    ran.checkpoint(3, content="trained further")
    path = ran.folder / "outputs/checkpoints/step_000003"
    tags = {unchanged.VERSION_TAG: checkpoints.version(path)}
    entry = {"checkpoint": dg.MetadataValue.path(str(path))}
    instance.report_runless_asset_event(dg.AssetMaterialization("joint_checkpoint", metadata=entry, tags=tags))
    assert ran.run("evaluate", instance).success
    assert [what for what, *_ in ran.asked] == ["evaluate"]


@pytest.mark.slow
def test_one_style_of_what_was_judged_whole_is_there_already(ran, instance):
    assert ran.run("evaluate", instance, tags={"dagster/partition": "FR"}).success
    assert ran.asked == []


@pytest.mark.slow
def test_all_styles_after_one_alone_are_judged(house, instance):
    house.trained(instance)
    house.run("evaluate", instance, tags={"dagster/partition": "FR"})
    house.run("evaluate", instance)
    assert [styles for _, _, styles in house.asked] == [["FR"], None]


def test_a_judge_that_is_replaced_under_its_name_judges_anew(instance, tmp_path):
    file = tmp_path / "yunet.onnx"
    file.write_bytes(b"one")
    config = loading.load([project.find("configs/demo.yaml")], [f"judges.second_detector={file}"])
    before = unchanged.made_of(instance, config, "evaluation", ["held_out_judges"])
    assert unchanged.made_of(instance, config, "evaluation", ["held_out_judges"]) == before
    file.write_bytes(b"another")
    assert unchanged.made_of(instance, config, "evaluation", ["held_out_judges"]) != before


def test_the_layers_are_those_of_the_imports():
    settings = tomllib.loads((project.PACKAGE.parent / "pyproject.toml").read_text())
    contract = settings["tool"]["importlinter"]["contracts"][0]["layers"]
    assert [f"anony_pipeline.{layer}" for layer in reversed(unchanged.LAYERS)] == contract[:-1]


def test_code_of_a_later_layer_changes_no_earlier_ones_version(monkeypatch):
    before = unchanged.code_version("datasets"), unchanged.code_version("training")
    whole = unchanged._hash_of_folder
    monkeypatch.setattr(unchanged, "_hash_of_folder", lambda path: "x" if path.name == "losses" else whole(path))
    assert unchanged.code_version("datasets") == before[0]
    assert unchanged.code_version("training") != before[1]


def test_other_shipped_weights_change_what_models_do_and_no_data(monkeypatch, tmp_path):
    monkeypatch.setattr(project, "PACKAGE", tmp_path)
    (tmp_path / weights.SHIPPED.name).mkdir()
    versions = []
    for content in ("of before", "of now"):
        (tmp_path / weights.SHIPPED.name / manifests.NAME).write_text(content)
        unchanged._hash_of_folder.cache_clear()
        versions.append([unchanged.code_version(layer) for layer in ("datasets", "models", "training")])
    is_same = [before == now for before, now in zip(*versions, strict=True)]
    assert is_same == [True, False, False]
