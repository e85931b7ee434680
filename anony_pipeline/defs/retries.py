"""Only what can pass on a second try is tried again: a store or network that was away for a moment."""

import contextlib
from collections.abc import Iterator

import dagster as dg

from anony_pipeline.errors import may_pass_again

RETRIES, WAIT_SECONDS = 2, 30.0


@contextlib.contextmanager
def if_a_store_is_away(context: dg.AssetExecutionContext | dg.OpExecutionContext) -> Iterator[None]:
    """Try a step again in a while if a store does not answer; after the last try, say so and what to do.

    Raises:
        dg.RetryRequested: If a second try can succeed.
        dg.Failure: If the last one failed as the others did.
    """
    try:
        yield
    except Exception as error:
        if not may_pass_again(error):
            raise
        if context.retry_number < RETRIES:
            raise dg.RetryRequested(RETRIES, WAIT_SECONDS) from error
        raise dg.Failure(
            f"a store or network did not answer in {RETRIES + 1} tries: {error}. Nothing that was written is lost: "
            "launch the run again when it is back.",
            allow_retries=False,
        ) from error
