"""What is made by itself when data change: up to the checkpoint, which the sensor `new_checkpoints` then has judged."""

import datetime

import dagster as dg

_ANY = dg.AutomationCondition

ON_CHANGED_DATA = (
    (_ANY.any_deps_match(_ANY.data_version_changed()) | _ANY.missing()).since_last_handled()
    & ~_ANY.any_deps_missing()
    & ~_ANY.any_deps_in_progress()
    & ~_ANY.in_progress()
    & _ANY.all_deps_blocking_checks_passed()
).with_label("on changed data")
"""An upstream materialization of the same data version starts nothing; `AutomationCondition.eager` would train."""

ROAD = ("unified_coco", "face_pseudo_targets", "plate_pseudo_targets", "pretrained_generator", "joint_checkpoint")

retrain_on_changed_data = dg.AutomationConditionSensorDefinition(
    "retrain_on_changed_data",
    target=dg.AssetSelection.assets(*ROAD),
    description="Unifies, makes targets and trains when a source's data version changed. Off until it is switched on.",
)

DAILY = dg.FreshnessPolicy.time_window(
    fail_window=datetime.timedelta(hours=36), warn_window=datetime.timedelta(hours=26)
)
"""What the nightly re-evaluation keeps: a scorecard older than that says that nobody looks any more."""
