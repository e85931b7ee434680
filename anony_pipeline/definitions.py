"""The Definitions object that Dagster loads."""

import dagster as dg

from anony_pipeline.defs import checks, jobs, schedules, sensors
from anony_pipeline.defs.assets import ALL as ASSETS
from anony_pipeline.defs.launcher import Launcher
from anony_pipeline.defs.resources import Experiment, default_layers

defs = dg.Definitions(
    assets=ASSETS,
    asset_checks=checks.ALL,
    jobs=jobs.ALL,
    schedules=schedules.ALL,
    sensors=sensors.ALL,
    # With their values, so that the Launchpad shows them.
    resources={"experiment": Experiment(layers=default_layers(), overrides=[]), "launcher": Launcher()},
)
