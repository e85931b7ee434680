"""What a step tries again, and what passes through untouched."""

from types import SimpleNamespace

import dagster as dg
import pytest

from anony_pipeline.defs import retries
from anony_pipeline.errors import CheckpointError

# As botocore raises it: its base is called ConnectionError, and is not Python's own.
BotocoresConnectionError = type("ConnectionError", (Exception,), {})
EndpointConnectionError = type("EndpointConnectionError", (BotocoresConnectionError,), {})


POSSIBLE = (dg.RetryRequested, dg.Failure, CheckpointError, OSError, dg.DagsterExecutionInterruptedError)


def raised(error, tries_before=0):
    with pytest.raises(POSSIBLE) as caught, retries.if_a_store_is_away(SimpleNamespace(retry_number=tries_before)):
        raise error
    return caught.value


@pytest.mark.parametrize(
    "error", [ConnectionResetError("reset"), TimeoutError("late"), EndpointConnectionError("none")]
)
def test_a_store_that_does_not_answer_is_asked_again(error):
    asked = raised(error)
    assert isinstance(asked, dg.RetryRequested)
    assert (asked.max_retries, asked.seconds_to_wait) == (retries.RETRIES, retries.WAIT_SECONDS)
    assert asked.__cause__ is error


def test_after_the_last_try_it_is_said():
    failure = raised(TimeoutError("late"), retries.RETRIES)
    assert isinstance(failure, dg.Failure)
    assert not failure.allow_retries
    assert "in 3 tries: late" in failure.description


@pytest.mark.parametrize(
    "error",
    [
        CheckpointError("damaged"),
        OSError(28, "no space left"),
        dg.Failure("the trainer ended with exit code 2", allow_retries=False),
        dg.RetryRequested(7, 3.0),
        dg.DagsterExecutionInterruptedError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_everything_else_passes_through(error):
    assert raised(error) is error
