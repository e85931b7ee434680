"""Changed data start a training, unchanged data start none; a failed run is told to people."""

import http.server
import json
import threading

import dagster as dg
import pytest

from anony_pipeline.definitions import defs
from anony_pipeline.defs import alerts, automation
from anony_pipeline.defs.partitions import STYLE_KEYS


def report(instance, key, version, styles=(None,)):
    for style in styles:
        tags = {"dagster/data_version": version}
        instance.report_runless_asset_event(dg.AssetMaterialization(key, partition=style, tags=tags))


def asked(instance, cursor=None):
    result = dg.evaluate_automation_conditions(
        defs=defs, instance=instance, cursor=cursor, asset_selection=dg.AssetSelection.assets(*automation.ROAD)
    )
    return {key for key in automation.ROAD if result.get_num_requested(dg.AssetKey(key))}, result.cursor


@pytest.fixture
def settled(instance):
    """Everything is materialized and was looked at once; returns the cursor."""
    for key in ("widerface", "pp4av", "face_recognizer", *(k for k in automation.ROAD if k != "plate_pseudo_targets")):
        report(instance, key, "1")
    for key in ("plate_samples", "plate_pseudo_targets"):
        report(instance, key, "1", STYLE_KEYS)
    _, cursor = asked(instance)
    again, cursor = asked(instance, cursor)
    assert not again
    return cursor


def test_the_same_data_again_train_nothing(instance, settled):
    for key in ("pp4av", "unified_coco", "face_pseudo_targets", "pretrained_generator"):
        report(instance, key, "1")
    assert asked(instance, settled)[0] == set()


def test_changed_data_are_unified_and_changed_targets_trained_on(instance, settled):
    report(instance, "pp4av", "2")
    found, cursor = asked(instance, settled)
    assert found == {"unified_coco"}
    report(instance, "unified_coco", "1")
    assert asked(instance, cursor)[0] == set(), "unified to the same bytes: nothing to learn"
    report(instance, "face_pseudo_targets", "2")
    assert asked(instance, cursor)[0] == {"pretrained_generator", "joint_checkpoint"}, "one run, one after the other"


def test_it_is_off_until_it_is_switched_on():
    for name in ("retrain_on_changed_data", "alert_on_failure", "new_checkpoints"):
        assert defs.resolve_sensor_def(name).default_status == dg.DefaultSensorStatus.STOPPED


def test_the_scorecard_says_when_nobody_looked_for_a_day():
    (spec,) = [spec for spec in defs.resolve_all_asset_specs() if spec.key == dg.AssetKey("scorecard")]
    assert spec.freshness_policy == automation.DAILY


class Hook(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.taken.append(json.loads(body))
        self.send_response(self.server.answer)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def hook():
    server = http.server.HTTPServer(("127.0.0.1", 0), Hook)
    server.taken, server.answer = [], 200
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


@dg.op
def broken():
    from anony_pipeline.errors import DatasetError

    raise DatasetError("the folder is not there", where="data/raw", do="copy it there")


@dg.job
def failing():
    broken()


def failure(instance):
    """What Dagster hands to the sensor after a run that failed."""
    result = failing.execute_in_process(instance=instance, raise_on_error=False)
    run = instance.get_run_by_id(result.run_id)
    return dg.build_run_status_sensor_context(
        sensor_name="alert_on_failure",
        dagster_event=result.get_run_failure_event(),
        dagster_instance=instance,
        dagster_run=run,
    ).for_run_failure()


def test_an_alert_names_the_job_the_step_and_what_to_do(instance, hook, monkeypatch):
    monkeypatch.setenv(alerts.WEBHOOK_VARIABLE, f"http://127.0.0.1:{hook.server_port}/hook")
    alerts.alert_on_failure(failure(instance))
    (message,) = hook.taken
    for part in ("failing failed", "step broken", "the folder is not there", "data/raw", "copy it there"):
        assert part in message["text"]


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/nobody", "file:///etc/passwd"])
def test_a_webhook_that_does_not_answer_is_no_failure_of_its_own(instance, monkeypatch, url, caplog):
    monkeypatch.setenv(alerts.WEBHOOK_VARIABLE, url)
    alerts.alert_on_failure(failure(instance))
    assert url not in caplog.text
