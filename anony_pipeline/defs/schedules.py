"""What runs by the clock."""

import dagster as dg

from anony_pipeline.defs.jobs import evaluate

nightly_reevaluation = dg.ScheduleDefinition(
    name="nightly_reevaluation",
    job=evaluate,
    cron_schedule="0 3 * * *",
    description="Judges the current checkpoint again: data, judges and code may have changed.",
)

ALL = [nightly_reevaluation]
