"""One run from raw data to scorecard; what it leaves in Dagster; and what is released."""

import base64
import json
import shutil
from pathlib import Path

import dagster as dg
import pytest

from anony_pipeline.defs import checkpoints, machine, retries
from anony_pipeline.defs.partitions import STYLE_KEYS
from anony_pipeline.storage import manifests


def latest(instance, key):
    return instance.get_latest_materialization_event(dg.AssetKey(key)).asset_materialization


def test_one_run_materializes_every_asset_and_every_style(done):
    for key in ("widerface", "pp4av", "unified_coco", "pretrained_generator", "joint_checkpoint", "scorecard"):
        assert latest(done.instance, key).asset_key.to_user_string() == key
    for key in ("plate_samples", "plate_pseudo_targets", "anonymized_val", "fid", "detector_map"):
        assert done.instance.get_materialized_partitions(dg.AssetKey(key)) == set(STYLE_KEYS)
    assert [what for what, *_ in done.house.asked] == ["train", "train", "evaluate"], "models load once for all styles"


def test_the_class_balance_is_shown_and_no_picture_of_real_people(done):
    shown = latest(done.instance, "unified_coco").metadata
    assert {name: shown[name].value for name in ("train/images", "train/faces", "val/plates")} == {
        "train/images": 2,
        "train/faces": 0,
        "val/plates": 2,
    }
    assert [record.data["plate style"] for record in shown["balance"].records] == ["FR", "unspecified"]
    assert "labeled images" not in shown


def of_styles(done, key):
    """The metadata of an asset's materializations by plate style."""
    events = done.result.asset_materializations_for_node("judged")
    return {event.partition: event.metadata for event in events if event.asset_key == dg.AssetKey(key)}


def test_each_style_has_its_own_figures(done):
    shown = of_styles(done, "fid")
    assert set(shown) == set(STYLE_KEYS)
    assert shown["FR"]["fid"].value == pytest.approx(0.2)
    assert shown["unspecified"]["fid"].value == pytest.approx(1.1)


def test_a_style_without_figures_shows_none_of_another(done):
    shown = of_styles(done, "fid")["BR"]
    assert shown["fid/reason"].value == "not in the scorecard"
    assert "fid" not in shown


def test_a_figure_that_is_null_is_shown_with_its_reason(done):
    assert of_styles(done, "arcface_similarity")["FR"]["reid_rank1/reason"].value == "too few people"


def test_the_checkpoint_is_a_partition_with_its_version_and_its_figures(done):
    version = manifests.sha256_of(done.house.folder / "outputs/checkpoints/step_000003/manifest.json")
    assert done.instance.get_dynamic_partitions("checkpoint") == ["step_000003"]
    assert done.instance.get_materialized_partitions(dg.AssetKey("checkpoints")) == {"step_000003"}
    assert latest(done.instance, "joint_checkpoint").tags[checkpoints.VERSION_TAG] == version
    observed = done.instance.fetch_observations(dg.AssetKey("checkpoints"), limit=1).records[0].asset_observation
    assert (observed.partition, observed.metadata["fid"].value) == ("step_000003", 0.5)


def test_lineage_is_exact(done):
    for key, parent in (("anonymized_val", "joint_checkpoint"), ("scorecard", "fid")):
        tags = latest(done.instance, key).tags
        assert any(name.endswith(parent) for name in tags if name.startswith("dagster/input_data_version")), tags


def test_the_trainers_events_are_observations(done):
    seen = done.instance.fetch_observations(dg.AssetKey("joint_checkpoint"), limit=5).records
    assert [record.asset_observation.metadata["l1"].value for record in seen] == [0.5]


def test_failed_gates_are_shown_and_do_not_fail_the_run(done):
    found = {check.check_name: check for check in done.result.get_asset_check_evaluations()}
    assert not found["coverage"].passed
    assert found["coverage"].metadata["reason"].value == "the judge is blind"
    assert found["boxes_in_images"].passed


def test_the_run_says_which_machine_it_is_on(done):
    tags = done.instance.get_run_by_id(done.result.run_id).tags
    assert machine.tags().items() <= tags.items()


def test_nothing_is_pickled(done):
    left = [path for path in Path(done.instance.root_directory, "storage").rglob("*") if path.is_file()]
    assert not [path for path in left if path.suffix not in (".out", ".err", ".complete", ".db", ".db-shm", ".db-wal")]


def test_the_scorecard_of_each_checkpoint_is_kept(done):
    checkpoint = done.house.folder / "outputs/checkpoints/step_000003"
    kept = checkpoints.scorecard_of(done.house.config, checkpoint)
    assert json.loads(kept.read_text())["subject"]["sha256"] == checkpoints.version(checkpoint)


def test_one_style_can_be_judged_alone(house, instance):
    house.trained(instance)
    result = house.run("evaluate", instance, tags={"dagster/partition": "FR"})
    assert result.success
    assert house.asked == [("evaluate", "step_000003", ["FR"])]


def test_a_wrong_style_is_refused_with_the_right_ones(house, instance):
    house.trained(instance)
    result = house.run("evaluate", instance, tags={"dagster/partition": "XX"})
    assert not result.success
    failure = next(event for event in result.all_events if event.is_step_failure)
    message = str(failure.event_specific_data.error)
    assert "XX" in message
    assert "FR" in message


def test_a_broken_box_stops_the_run_before_anything_is_trained(house, instance):
    file = house.folder / "unified" / "unified_train.json"
    content = json.loads(file.read_text())
    content["annotations"][0]["bbox"] = [50, 5, 20, 10]
    file.write_text(json.dumps(content))
    result = house.run("planb", instance)
    assert not result.success
    assert house.asked == []


@pytest.mark.parametrize(
    ("change", "check"),
    [
        (lambda house: (house.folder / "raw/pp4av/val_1.png").unlink(), "files_are_there"),
        (
            lambda house: (house.folder / "raw/pp4av/val_1.png").write_bytes(
                (house.folder / "raw/pp4av/train_0.png").read_bytes()
            ),
            "no_leak_between_splits",
        ),
    ],
    ids=["missing file", "copy of a train image"],
)
def test_each_broken_rule_is_a_failed_check(house, instance, change, check):
    change(house)
    result = house.run("prepare_data", instance)
    assert not result.success
    assert {found.check_name for found in result.get_asset_check_evaluations() if not found.passed} >= {check}


def test_an_unknown_style_is_a_failed_check(house, instance):
    file = house.folder / "unified" / "unified_val.json"
    file.write_text(file.read_text().replace('"FR"', '"ZZ"'))
    result = house.run("prepare_data", instance)
    (found,) = [check for check in result.get_asset_check_evaluations() if not check.passed]
    assert found.check_name == "styles_are_known"
    assert "ZZ, 1 images" in found.metadata["first"].value


def test_both_stages_show_their_curves(done):
    for asset in ("pretrained_generator", "joint_checkpoint"):
        entry = latest(done.instance, asset).metadata
        assert (
            "data:image/png;base64," + base64.b64encode(done.house.curves.read_bytes()).decode()
            in entry["curves"].value
        )
        assert entry["summary"].value == str(done.house.curves.with_name("summary.html"))


def test_nothing_is_released_while_a_gate_fails(house, instance):
    house.trained(instance)
    assert house.run("evaluate", instance).success
    result = house.run("release", instance)
    entry = latest(instance, "released_anonymizer").metadata
    assert entry["released"].value is False
    assert "gate coverage: the judge is blind" in entry["refused_because"].value
    assert not (house.folder / "outputs" / "release").exists()
    failure = next(event for event in result.all_events if event.is_step_failure)
    assert failure.step_key == "anonymized_dataset"
    assert "nothing was released" in str(failure.event_specific_data.error)


def test_what_passed_every_gate_is_released_without_what_only_training_needs(house, instance):
    house.passing = True
    house.trained(instance)
    assert house.run("evaluate", instance).success
    house.run("release", instance)
    release = house.folder / "outputs" / "release"
    assert latest(instance, "released_anonymizer").metadata["released"].value is True
    assert sorted(path.name for path in release.iterdir()) == [
        "config.yaml",
        "detector.safetensors",
        "manifest.json",
        "scorecard.json",
    ]
    facts = manifests.read(release)
    assert facts["released_from"]["sha256"] == checkpoints.version(house.folder / "outputs/checkpoints/step_000003")


def test_a_checkpoint_that_changed_after_it_was_materialized_is_not_judged(house, instance):
    house.trained(instance)
    house.checkpoint(3, content="other weights")
    assert not house.run("evaluate", instance).success
    assert house.asked == []


def test_another_experiments_checkpoint_is_not_judged(house, instance):
    house.trained(instance)
    moved = house.config.model_copy(update={"paths": house.config.paths.model_copy(update={"outputs": "/elsewhere"})})
    with pytest.raises(Exception, match="joint_checkpoint is another experiment's"):
        checkpoints.current(instance, moved)


def test_without_a_checkpoint_the_evaluation_says_what_to_do(house, instance):
    with pytest.raises(Exception, match=r"never materialized(.|\n)*job joint_training"):
        checkpoints.current(instance, house.config)


def test_a_run_without_its_configuration_file_says_which_there_are(house, instance):
    house.file = "configs/nowhere.yaml"
    result = house.run("joint_training", instance)
    failure = next(event for event in result.all_events if event.is_step_failure)
    message = str(failure.event_specific_data.error)
    assert "there is no such configuration file" in message
    assert "configs/demo.yaml" in message


def test_figures_are_filed_under_what_was_judged_when_another_checkpoint_is_current_by_now(house, instance):
    judged = house.trained(instance)
    assert house.run("evaluate", instance).success
    other = house.checkpoint(9, content="trained meanwhile")
    entry = {"checkpoint": dg.MetadataValue.path(str(other))}
    instance.report_runless_asset_event(dg.AssetMaterialization(checkpoints.JOINT, metadata=entry))
    assert house.run("evaluate", instance, asset_selection=[dg.AssetKey("scorecard")]).success
    assert not checkpoints.scorecard_of(house.config, other).exists()
    assert checkpoints.scorecard_of(house.config, judged).exists()
    (seen,) = instance.fetch_observations(checkpoints.HISTORY, limit=1).records
    assert seen.partition_key == judged.name


@pytest.mark.parametrize("what", ["gone", "changed"])
def test_figures_of_a_checkpoint_that_is_no_more_are_filed_nowhere(house, instance, what):
    judged = house.trained(instance)
    assert house.run("evaluate", instance).success
    if what == "gone":
        shutil.rmtree(judged)
    else:
        house.checkpoint(3, content="trained anew")
    result = house.run("evaluate", instance, asset_selection=[dg.AssetKey("scorecard")])
    (failure,) = (event for event in result.all_events if event.is_step_failure)
    message = str(failure.event_specific_data.error)
    assert "judged" in message
    assert what in message


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(retries, "WAIT_SECONDS", 0)


def test_a_store_that_was_away_for_a_moment_costs_a_retry_and_nothing_else(house, instance, monkeypatch, impatient):
    from anony_pipeline.evaluation import scorecard

    errors = [ConnectionResetError("the store hung up"), TimeoutError("no answer")]

    def evaluate(*arguments):
        if errors:
            raise errors.pop()
        return house.evaluate(*arguments)

    monkeypatch.setattr(scorecard, "evaluate", evaluate)
    house.trained(instance)
    result = house.run("evaluate", instance, tags={"dagster/partition": "FR"})
    assert result.success
    assert len([event for event in result.all_events if event.is_step_up_for_retry]) == 2
    assert instance.get_materialized_partitions(dg.AssetKey("fid")) == {"FR"}


def test_a_store_that_stays_away_is_said_and_what_was_made_stays(house, instance, monkeypatch, impatient):
    from anony_pipeline.evaluation import scorecard

    checkpoint, tries = house.trained(instance), []

    def evaluate(*_):
        tries.append(1)
        raise ConnectionResetError("the store hung up")

    monkeypatch.setattr(scorecard, "evaluate", evaluate)
    result = house.run("evaluate", instance, tags={"dagster/partition": "FR"})
    assert len(tries) == retries.RETRIES + 1
    failure = next(event for event in result.all_events if event.is_step_failure)
    assert "did not answer in 3 tries: the store hung up" in str(failure.event_specific_data.error)
    manifests.read(checkpoint)


def test_what_would_fail_again_is_not_tried_again(house, instance, monkeypatch, impatient):
    from anony_pipeline.evaluation import scorecard

    tries = []
    monkeypatch.setattr(scorecard, "evaluate", lambda *_: tries.append(1) or {}["no such key"])
    house.trained(instance)
    assert not house.run("evaluate", instance, tags={"dagster/partition": "FR"}).success
    assert tries == [1]
