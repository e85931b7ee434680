import errno
import io
import json
import logging
import math

import pytest
from rich.console import Console

from anony_pipeline.training import journal
from anony_pipeline.training.journal import COLUMNS, Journal, finite, read_metrics


def test_rows_come_back_and_what_was_not_measured_stays_empty(tmp_path):
    journal = Journal(tmp_path, "joint")
    with journal.running(0, 2):
        journal.record(1, {"l1": 0.5, "seconds": 3.25})
        journal.record(1, {"detector": 2.0})
        journal.record(2, {"l1": 0.25, "fid": math.nan})
    assert read_metrics(journal.metrics_file) == [
        {"step": 1, "l1": 0.5, "seconds": 3.25, "detector": 2},
        {"step": 2, "l1": 0.25},
    ]
    assert journal.metrics_file.read_text().splitlines()[0] == ",".join(COLUMNS)


def test_a_resumed_run_drops_the_rows_of_steps_that_were_lost(tmp_path):
    journal = Journal(tmp_path, "joint")
    with journal.running(0, 4):
        for step in (1, 2, 3):
            journal.record(step, {"l1": step / 10})
    again = Journal(tmp_path, "joint")
    with again.running(2, 4):
        again.record(3, {"l1": 0.9})
    assert [(row["step"], row["l1"]) for row in read_metrics(again.metrics_file)] == [(1, 0.1), (2, 0.2), (3, 0.9)]


def test_a_run_that_begins_anew_begins_a_new_file(tmp_path):
    for _ in range(2):
        journal = Journal(tmp_path, "joint")
        with journal.running(0, 1):
            journal.record(1, {"l1": 0.1})
    assert len(read_metrics(journal.metrics_file)) == 1


def test_figures_survive_an_error_in_the_run(tmp_path):
    journal = Journal(tmp_path, "joint")
    with pytest.raises(RuntimeError, match="stop"), journal.running(0, 1):  # noqa: PT012 - what is raised inside matters
        journal.record(1, {"l1": 0.1})
        raise RuntimeError("stop")
    assert read_metrics(journal.metrics_file) == [{"step": 1, "l1": 0.1}]


def test_a_full_disk_does_not_hide_the_error_before_it(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(journal.atomic, "write_text", full)
    with pytest.raises(RuntimeError, match="stop"), Journal(tmp_path, "joint").running(0, 1):
        raise RuntimeError("stop")
    with pytest.raises(OSError, match="No space left"), Journal(tmp_path, "joint").running(0, 1):
        pass


def test_an_event_that_was_cut_off_does_not_take_the_next_one_with_it(tmp_path):
    for label in ("a", "b", "a"):
        with Journal(tmp_path, "joint", fingerprint=label).running(0, 1) as run:
            run.event("begin", fingerprint=label)
            run.record(1, {"l1": 0.1 if label == "a" else 0.2})
        with (tmp_path / "events.jsonl").open("a") as file:
            file.write('{"event": "st')
    assert read_metrics(tmp_path / "metrics-b.csv") == [{"step": 1, "l1": 0.2}]
    assert read_metrics(tmp_path / "metrics.csv") == [{"step": 1, "l1": 0.1}]


def test_events_are_json_lines_and_reach_the_caller(tmp_path):
    seen = []
    journal = Journal(tmp_path, "pretrain", seen.append)
    journal.event("saved", step=4, checkpoint="x")
    journal.event("end", step=4)
    lines = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert lines == seen
    assert lines[0] == {"event": "saved", "stage": "pretrain", "step": 4, "checkpoint": "x"}


def test_what_is_not_finite_is_left_out():
    assert finite({"a": 1.0, "b": math.inf, "c": math.nan}) == {"a": 1.0}


def test_a_second_process_learns_of_events_and_writes_nothing(tmp_path):
    seen = []
    journal = Journal(tmp_path / "out", "joint", seen.append, writes=False)
    with journal.running(0, 2):
        journal.event("begin", step=0)
        journal.record(1, {"l1": 0.1})
        journal.tell(1, 2)
    # Without "begin" it would not know that there is something to save when it is told to stop.
    assert [event["event"] for event in seen] == ["begin"]
    assert not (tmp_path / "out").exists()


def told(folder):
    made = Journal(folder, "joint")
    with made.running(0, 8):
        made.record(1, {"l1": 0.5, "crops_per_second": 12.34, "gradient_norm": 7.0})
        made.tell(1, 8)


def test_the_log_says_how_far_it_is_how_fast_and_what_it_costs(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(journal, "LOG_EVERY_SECONDS", 0)
    with caplog.at_level(logging.INFO, logger="anony_pipeline"):
        told(tmp_path)
    assert [record.getMessage() for record in caplog.records] == ["joint 1 of 8  12.3 crops/s  l1 0.500"]
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    figures = {"step": 1, "l1": 0.5, "crops_per_second": 12.34, "gradient_norm": 7.0}
    assert events == [{"event": "step", "stage": "joint"} | figures]


def test_a_terminal_shows_the_same_beside_a_bar(tmp_path, monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(journal, "console", Console(file=screen, force_terminal=True, width=120))
    told(tmp_path)
    for part in ("joint", "1/8", "12.3 crops/s", "l1 0.500"):
        assert part in screen.getvalue()
