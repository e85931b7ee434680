"""The sensor judges every checkpoint once, the oldest first, and gives up on none too early or too late."""

import json
import os
import shutil

import dagster as dg
import pytest
from dagster import DagsterRunStatus

from anony_pipeline.definitions import defs
from anony_pipeline.defs import checkpoints
from anony_pipeline.defs.partitions import EVERY_STYLE
from anony_pipeline.defs.resources import Experiment
from anony_pipeline.defs.sensors import ATTEMPTS, VERSION_OF_RUN, new_checkpoints
from anony_pipeline.storage import atomic, manifests


def tick(house, instance):
    experiment = Experiment(layers=[str(house.file)])
    return new_checkpoints(dg.build_sensor_context(instance=instance, resources={"experiment": experiment}))


def judge(house, checkpoint):
    atomic.write_text(checkpoints.scorecard_of(house.config, checkpoint), "{}")


def run_of(instance, job, status, tags=None):
    definition = defs.resolve_job_def(job)
    run = instance.create_run_for_job(definition, tags=tags or {})
    instance.handle_run_event(
        run.run_id,
        dg.DagsterEvent(
            event_type_value={
                DagsterRunStatus.STARTED: "PIPELINE_START",
                DagsterRunStatus.FAILURE: "PIPELINE_FAILURE",
            }[status],
            job_name=job,
        ),
    )
    return run


def heed(result, instance):
    """Write what a tick asks to be written, as the daemon does; returns the one run that it asks for."""
    for partitions in result.dynamic_partitions_requests:
        instance.add_dynamic_partitions("checkpoint", partitions.partition_keys)
    for event in result.asset_events:
        instance.report_runless_asset_event(event)
    (request,) = result.run_requests
    return request


def judged_in_turn(house, instance):
    """Heed and judge until nothing is asked for; returns what was current whenever something was judged."""
    names, keys = [], []
    while not isinstance(result := tick(house, instance), dg.SkipReason):
        keys.append(heed(result, instance).run_key)
        assert len(keys) == len(set(keys)) < 10, "a key starts one run for ever"
        current = checkpoints.current(instance, house.config)
        judge(house, current)
        names.append(current.name)
    return names


def test_nothing_to_do_is_said(house, instance):
    assert tick(house, instance).skip_message == "every checkpoint has its scorecard, or failed three times"


def test_a_new_checkpoint_is_registered_and_judged_by_all_styles(house, instance):
    path = house.checkpoint(3)
    result = tick(house, instance)
    (request,) = result.run_requests
    version = checkpoints.version(path)
    assert request.run_key == f"step_000003:{version}:1"
    assert request.tags == {**EVERY_STYLE, VERSION_OF_RUN: version}
    assert request.run_config == house.run_config
    assert result.dynamic_partitions_requests[0].partition_keys == ["step_000003"]
    joint, history = result.asset_events
    assert joint.asset_key == checkpoints.JOINT
    assert joint.tags[checkpoints.VERSION_TAG] == version
    assert (history.asset_key, history.partition) == (checkpoints.HISTORY, "step_000003")


def test_the_oldest_has_its_turn_first_and_late_ones_are_not_missed(house, instance):
    later = house.checkpoint(9)
    judge(house, later)
    house.checkpoint(7)
    house.checkpoint(5)
    assert tick(house, instance).run_requests[0].run_key.startswith("step_000005:")


def test_a_checkpoint_that_was_judged_is_left_alone_until_it_changes(house, instance):
    judge(house, house.checkpoint(3))
    assert isinstance(tick(house, instance), dg.SkipReason)
    house.checkpoint(3, content="trained anew")
    assert tick(house, instance).run_requests[0].run_key.startswith("step_000003:")


def test_a_checkpoint_that_was_set_aside_is_not_judged_again(house, instance):
    judged = house.checkpoint(3)
    judge(house, judged)
    judged.rename(judged.with_name("step_000003-AAAAAAAA"))
    anew = house.checkpoint(3, content="of another configuration")
    assert tick(house, instance).run_requests[0].run_key.startswith("step_000003:")
    judge(house, anew)
    assert isinstance(tick(house, instance), dg.SkipReason)


def test_a_checkpoint_that_is_still_being_written_is_not_looked_at(house, instance):
    whole = house.checkpoint(3)
    whole.rename(whole.with_name(".step_000003.abc123.part"))
    assert isinstance(tick(house, instance), dg.SkipReason)


@pytest.mark.parametrize("damage", ["no manifest", "missing file", "wrong size", "cut manifest"])
def test_a_checkpoint_that_is_not_whole_waits(house, instance, damage):
    path = house.checkpoint(3)
    if damage == "no manifest":
        (path / "manifest.json").unlink()
    elif damage == "missing file":
        (path / "detector.safetensors").unlink()
    elif damage == "wrong size":
        (path / "detector.safetensors").write_text("half")
    else:
        (path / "manifest.json").write_text('{"files": ')
    house.checkpoint(8)
    assert tick(house, instance).run_requests[0].run_key.startswith("step_000008:")


def test_after_older_ones_the_checkpoint_that_was_trained_is_current_again_with_its_own_figures(house, instance):
    house.checkpoint(1)
    trained = house.trained(instance)
    judge(house, trained)
    for name in ("step_000001", trained.name):
        request = heed(tick(house, instance), instance)
        assert request.run_key.startswith(f"{name}:")
        assert house.run("evaluate", instance, tags=request.tags).success
    assert isinstance(tick(house, instance), dg.SkipReason)
    card = json.loads((house.folder / "outputs" / "scorecard.json").read_text())
    assert card["subject"]["checkpoint"] == trained.name


def test_going_back_is_asked_for_anew_each_time(house, instance):
    judge(house, house.trained(instance))
    for step in (1, 2):
        house.checkpoint(step)
        assert judged_in_turn(house, instance) == [f"step_00000{step}", "step_000003"]


def test_it_goes_back_from_one_that_could_not_be_judged(house, instance):
    bad = house.checkpoint(1)
    judge(house, house.trained(instance))
    version = checkpoints.version(bad)
    for _ in range(ATTEMPTS):
        assert heed(tick(house, instance), instance).run_key.startswith("step_000001:")
        run_of(instance, "evaluate", DagsterRunStatus.FAILURE, {VERSION_OF_RUN: version})
    assert heed(tick(house, instance), instance).run_key.startswith("step_000003:")
    assert isinstance(tick(house, instance), dg.SkipReason)


def test_it_goes_back_from_another_trainings_checkpoint_of_more_steps(house, instance):
    aside = house.checkpoint(9)
    aside.rename(aside.with_name("step_000009-AAAAAAAA"))
    judge(house, house.trained(instance))
    assert judged_in_turn(house, instance) == ["step_000009-AAAAAAAA", "step_000003"]


def test_it_goes_on_to_newer_ones_and_stays(house, instance):
    judge(house, house.trained(instance))
    house.checkpoint(4), house.checkpoint(7)
    assert judged_in_turn(house, instance) == ["step_000004", "step_000007"]


def test_it_does_not_go_back_to_what_is_gone(house, instance):
    house.checkpoint(1)
    trained = house.trained(instance)
    judge(house, trained)
    heed(tick(house, instance), instance)
    judge(house, house.folder / "outputs" / "checkpoints" / "step_000001")
    shutil.rmtree(trained)
    assert isinstance(tick(house, instance), dg.SkipReason)


@pytest.mark.parametrize(
    ("assets", "waits"), [(["fid"], True), (["joint_checkpoint"], True), (["unified_coco"], False), (None, True)]
)
def test_a_run_from_the_page_is_waited_for_if_it_could_move_the_checkpoint(house, instance, assets, waits):
    house.checkpoint(3)
    chosen = frozenset(map(dg.AssetKey, assets)) if assets else None
    whole = defs.resolve_implicit_global_asset_job_def()
    job = whole.get_subset(asset_selection=chosen) if chosen else whole
    run = instance.create_run_for_job(job, asset_selection=chosen)
    instance.report_engine_event("begins", run)
    assert isinstance(tick(house, instance), dg.SkipReason) is waits


@pytest.mark.parametrize("job", ["planb", "evaluate", "joint_training"])
def test_nothing_starts_while_a_run_could_move_the_checkpoint(house, instance, job):
    house.checkpoint(3)
    run_of(instance, job, DagsterRunStatus.STARTED)
    assert f"of {job} is under way" in tick(house, instance).skip_message


def test_a_failed_evaluation_is_tried_three_times_and_then_the_next_has_its_turn(house, instance):
    first, _ = house.checkpoint(3), house.checkpoint(4)
    version = checkpoints.version(first)
    for attempt in range(1, ATTEMPTS + 1):
        assert tick(house, instance).run_requests[0].run_key == f"step_000003:{version}:{attempt}"
        run_of(instance, "evaluate", DagsterRunStatus.FAILURE, {VERSION_OF_RUN: version})
    assert tick(house, instance).run_requests[0].run_key.startswith("step_000004:")


@pytest.mark.parametrize("judged", [False, True], ids=["all new", "all judged"])
def test_a_tick_over_many_checkpoints_looks_at_the_files_of_one_alone(house, instance, monkeypatch, judged):
    # How long a tick over 500 takes is measured by benchmarks/sensor_tick.py.
    for step in range(40):
        checkpoint = house.checkpoint(step)
        if judged:
            judge(house, checkpoint)
    looked_at = []
    read = manifests.read
    monkeypatch.setattr(manifests, "read", lambda folder, **how: looked_at.append(folder.name) or read(folder, **how))
    tick(house, instance)
    assert looked_at == ([] if judged else ["step_000000"])


def test_a_wrong_sum_is_marked_by_the_run_before_anything_is_loaded(house, instance):
    bad = house.checkpoint(3)
    (bad / "detector.safetensors").write_text("wEights")
    result = tick(house, instance)
    (request,) = result.run_requests
    assert request.run_key.startswith("step_000003:"), "a tick compares no sums"
    instance.add_dynamic_partitions("checkpoint", result.dynamic_partitions_requests[0].partition_keys)
    for event in result.asset_events:
        instance.report_runless_asset_event(event)
    assert not house.run("evaluate", instance, tags=request.tags).success
    assert house.asked == []
    (mark,) = instance.fetch_observations(checkpoints.HISTORY, limit=10).records
    assert mark.partition_key == "step_000003"
    assert "another sha256" in mark.asset_observation.metadata["damaged"].value
    assert tick(house, instance).run_requests[0].run_key == request.run_key.removesuffix("1") + "2"


def test_a_checkpoint_that_is_removed_is_forgotten(house, instance):
    gone, _ = house.checkpoint(3), house.checkpoint(4)
    assert tick(house, instance).run_requests[0].run_key.startswith("step_000003:")
    shutil.rmtree(gone)
    assert tick(house, instance).run_requests[0].run_key.startswith("step_000004:")


def test_a_checkpoint_that_is_removed_during_the_tick_does_not_end_it(house, instance, monkeypatch):
    gone, _ = house.checkpoint(3), house.checkpoint(4)
    sha256_of = manifests.sha256_of

    def removed_before_it_is_read(file):
        if file.parent == gone:
            shutil.rmtree(gone, ignore_errors=True)
        return sha256_of(file)

    monkeypatch.setattr(manifests, "sha256_of", removed_before_it_is_read)
    assert tick(house, instance).run_requests[0].run_key.startswith("step_000004:")


def test_the_clock_and_the_files_times_do_not_matter(house, instance):
    # One was copied here with its old times, the other was written while the clock went wrong.
    for step, seconds in ((3, 0), (4, 4_000_000_000)):
        checkpoint = house.checkpoint(step)
        for path in (*checkpoint.iterdir(), checkpoint):
            os.utime(path, (seconds, seconds))
        assert tick(house, instance).run_requests[0].run_key.startswith(f"step_00000{step}:")
        judge(house, checkpoint)
    assert isinstance(tick(house, instance), dg.SkipReason)


def test_a_restart_between_ticks_asks_for_nothing_twice(house, tmp_path):
    checkpoint = house.checkpoint(3)
    home = str(tmp_path)
    with dg.instance_for_test(temp_dir=home) as instance:
        (asked,) = tick(house, instance).run_requests
    # Nothing was started yet: the same key, of which Dagster starts one run alone.
    with dg.instance_for_test(temp_dir=home) as instance:
        (again,) = tick(house, instance).run_requests
        assert again.run_key == asked.run_key
        run = run_of(instance, "evaluate", DagsterRunStatus.STARTED, asked.tags)
    with dg.instance_for_test(temp_dir=home) as instance:
        assert f"the run {run.run_id} of evaluate is under way" in tick(house, instance).skip_message
        instance.report_run_failed(run)
        assert tick(house, instance).run_requests[0].run_key == asked.run_key.removesuffix("1") + "2"
        judge(house, checkpoint)
        assert isinstance(tick(house, instance), dg.SkipReason)
