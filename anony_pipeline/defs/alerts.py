"""A failed run is told to people: in the daemon's log, and to a webhook where one is configured."""

import json
import os
import urllib.error
import urllib.request

import dagster as dg

WEBHOOK_VARIABLE = "ANONY_ALERT_WEBHOOK"
"""A URL that takes ``{"text": ...}`` by POST, as the incoming webhooks of Slack, Mattermost and others do."""

TIMEOUT_SECONDS = 10
MESSAGE_LINES = 12


@dg.run_failure_sensor(
    name="alert_on_failure",
    description=f"Writes a readable alert of each failed run; posts it to the URL in {WEBHOOK_VARIABLE}.",
)
def alert_on_failure(context: dg.RunFailureSensorContext) -> None:
    """Tell what failed, where, why, and the command that shows more."""
    text = text_of(context)
    context.log.error(text)
    if url := os.environ.get(WEBHOOK_VARIABLE):
        _post(url, text, context)


def text_of(context: dg.RunFailureSensorContext) -> str:
    """The alert: job, run, failed steps with their errors, and what to do."""
    run = context.dagster_run
    style = run.tags.get("dagster/partition")
    lines = [f"{run.job_name} failed{f' for {style}' if style else ''} (run {run.run_id})"]
    for event in context.get_step_failure_events():
        error = event.step_failure_data.error
        # Dagster wraps what the step raised; the cause is what a person can act on.
        while error is not None and error.cause is not None:
            error = error.cause
        message = error.message.strip() if error is not None else "no message"
        lines += [f"step {event.step_key}:", *message.splitlines()[:MESSAGE_LINES]]
    if len(lines) == 1:
        lines.append(context.failure_event.message or "no message")
    return "\n".join(
        [*lines, "Its log is in the UI under Runs. A training goes on from its last checkpoint: launch it again."]
    )


def _post(url: str, text: str, context: dg.RunFailureSensorContext) -> None:
    if not url.startswith(("https://", "http://")):
        context.log.error(f"{WEBHOOK_VARIABLE} is no http(s) URL: the alert was only logged")
        return
    request = urllib.request.Request(  # noqa: S310 - checked above
        url, json.dumps({"text": text}).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS):  # noqa: S310
            pass
    except (urllib.error.URLError, TimeoutError) as error:
        # The URL is a secret and stays out of the log.
        context.log.error(f"the webhook did not take the alert: {getattr(error, 'reason', error)}")
