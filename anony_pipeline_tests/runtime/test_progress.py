"""Progress reaches a log as well as a terminal, and changes nothing."""

import io
import logging

from rich.console import Console

from anony_pipeline.runtime import progress


def test_every_item_comes_through_in_order():
    assert list(progress.track(iter(range(5)), "counting", total=5)) == [0, 1, 2, 3, 4]


def test_a_log_gets_a_line_now_and_then(monkeypatch, caplog):
    clock = iter(range(0, 1000, 6))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(clock)))
    with caplog.at_level(logging.INFO, logger="anony_pipeline"):
        list(progress.track(range(4), "reading images"))
    assert [record.getMessage() for record in caplog.records] == [
        "reading images: 2 of 4, 0.2 a second",
        "reading images: 4 of 4, 0.2 a second",
    ]


def test_a_terminal_gets_a_bar_and_no_log_lines(monkeypatch, caplog):
    screen = io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=screen, force_terminal=True, width=100))
    with caplog.at_level(logging.INFO, logger="anony_pipeline"):
        assert list(progress.track([1, 2], "reading images")) == [1, 2]
    assert "reading images" in screen.getvalue()
    assert not caplog.records
