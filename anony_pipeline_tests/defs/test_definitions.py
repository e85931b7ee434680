"""The graph reads like the method, loads fast, and never pickles."""

import re
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from anony_pipeline.definitions import defs
from anony_pipeline.defs.partitions import CHECKPOINTS, STYLE_KEYS, STYLES
from anony_pipeline.plates.styles import configured_styles

GROUPS = {
    "datasets": {"widerface", "pp4av", "unified_coco"},
    "plates": {"plate_samples"},
    "judges": {"face_recognizer", "plate_reader", "held_out_judges"},
    "targets": {"face_pseudo_targets", "plate_pseudo_targets"},
    "training": {"pretrained_generator", "joint_checkpoint", "checkpoints"},
    "evaluation": {
        "anonymized_val",
        "fid",
        "arcface_similarity",
        "easyocr_plate_accuracy",
        "detector_map",
        "scorecard",
    },
    "release": {"released_anonymizer", "anonymized_dataset"},
}
BY_STYLE = {
    "plate_samples",
    "plate_pseudo_targets",
    "anonymized_val",
    "fid",
    "arcface_similarity",
    "easyocr_plate_accuracy",
    "detector_map",
}
EDGES = {
    "unified_coco": {"widerface", "pp4av"},
    "face_pseudo_targets": {"unified_coco", "face_recognizer"},
    "plate_pseudo_targets": {"unified_coco", "plate_samples"},
    "pretrained_generator": {"face_pseudo_targets", "plate_pseudo_targets"},
    "joint_checkpoint": {"pretrained_generator", "face_pseudo_targets", "plate_pseudo_targets"},
    "checkpoints": {"joint_checkpoint"},
    "anonymized_val": {"joint_checkpoint", "unified_coco", "face_recognizer", "plate_reader", "held_out_judges"},
    "fid": {"anonymized_val"},
    "scorecard": {"anonymized_val", "fid", "arcface_similarity", "easyocr_plate_accuracy", "detector_map"},
    "released_anonymizer": {"scorecard"},
    "anonymized_dataset": {"released_anonymizer", "unified_coco"},
}
SPECS = {spec.key.to_user_string(): spec for spec in defs.resolve_all_asset_specs()}


def selected(job):
    graph = defs.resolve_asset_graph()
    found = defs.resolve_job_def(job).asset_layer.selected_asset_keys
    assert found <= set(graph.get_all_asset_keys())
    return {key.to_user_string() for key in found}


def test_the_definitions_load():
    dg.Definitions.validate_loadable(defs)


def test_the_groups_and_their_assets_are_the_designs():
    found = {}
    for key, spec in SPECS.items():
        found.setdefault(spec.group_name, set()).add(key)
    assert found == GROUPS


@pytest.mark.parametrize("key", sorted(EDGES))
def test_an_asset_stands_on_what_it_is_made_of(key):
    assert {dep.asset_key.to_user_string() for dep in SPECS[key].deps} == EDGES[key]


@pytest.mark.parametrize("key", sorted(SPECS))
def test_every_asset_says_what_it_is(key):
    assert SPECS[key].description
    assert SPECS[key].kinds


@pytest.mark.parametrize("key", sorted(SPECS))
def test_every_asset_has_an_owner_and_leads_to_its_code(key):
    assert len(SPECS[key].owners) == 1
    if key == "checkpoints":
        return  # made by others' runs, by no function of its own
    (place,) = SPECS[key].metadata["dagster/code_references"].code_references
    source = Path(place.file_path).read_text()
    assert key in source
    assert re.match(r"@dg\.(multi_|graph_)?asset\(", source.splitlines()[place.line_number - 1])


def test_who_trains_does_not_judge():
    owners = {group: {owner for key in keys for owner in SPECS[key].owners} for group, keys in GROUPS.items()}
    assert not owners["training"] & (owners["judges"] | owners["evaluation"] | owners["release"])


def test_all_assets_by_style_share_one_definition_and_run_in_one_step():
    assert {key for key, spec in SPECS.items() if spec.partitions_def == STYLES} == BY_STYLE
    for definition in defs.resolve_asset_graph().assets_defs:
        if definition.partitions_def == STYLES:
            assert definition.backfill_policy == dg.BackfillPolicy.single_run()


def test_checkpoints_are_the_history_with_a_partition_each():
    assert {key for key, spec in SPECS.items() if spec.partitions_def == CHECKPOINTS} == {"checkpoints"}


def test_the_styles_are_the_shipped_files_and_the_last_is_for_everything_else():
    assert set(STYLE_KEYS) == set(configured_styles())
    assert STYLE_KEYS[-1] == "unspecified"
    assert STYLE_KEYS[:-1] == sorted(STYLE_KEYS[:-1])


def test_an_unknown_style_is_refused_with_those_that_there_are():
    # As `dg launch --partition` does it, before there is a run.
    with pytest.raises(
        dg.DagsterUnknownPartitionError, match=r"no such plate style: XX\. There are: .*FR.*unspecified"
    ):
        defs.resolve_job_def("evaluate").validate_partition_key("XX", selected_asset_keys=None, context=None)


def test_planb_is_the_whole_road_but_the_history_and_the_release():
    assert selected("planb") == set(SPECS) - {"checkpoints"} - GROUPS["release"]


@pytest.mark.parametrize(
    ("job", "keys"),
    [
        ("prepare_data", GROUPS["datasets"] | GROUPS["plates"]),
        ("pretrain", GROUPS["targets"] | {"pretrained_generator"}),
        ("joint_training", {"joint_checkpoint"}),
        ("evaluate", GROUPS["evaluation"]),
        ("release", GROUPS["release"]),
    ],
)
def test_a_job_is_a_part_of_the_road(job, keys):
    assert selected(job) == keys


@pytest.mark.parametrize("job", ["planb", "prepare_data", "pretrain", "evaluate"])
def test_a_job_with_styles_is_about_all_of_them_unless_told_otherwise(job):
    tags = defs.resolve_job_def(job).tags
    assert tags["dagster/asset_partition_range_start"] == STYLE_KEYS[0]
    assert tags["dagster/asset_partition_range_end"] == STYLE_KEYS[-1]


def test_the_gpu_op_takes_turns_in_the_pool():
    job = defs.resolve_job_def("joint_training")
    (node,) = [node for node in job.all_node_defs if node.name == "train_joint"]
    assert node.pool == "gpu"


def test_data_integrity_stops_a_run_and_the_gates_do_not():
    graph = defs.resolve_asset_graph()
    blocking = {
        (key.asset_key.to_user_string(), key.name): graph.get_check_spec(key).blocking for key in graph.asset_check_keys
    }
    assert {name for (asset, name), stops in blocking.items() if asset == "unified_coco" and stops} == {
        "boxes_in_images",
        "files_are_there",
        "no_leak_between_splits",
        "styles_are_known",
    }
    assert {name for (asset, name), stops in blocking.items() if asset == "scorecard" and not stops} == {
        "reid_excess",
        "plate_leak_rate",
        "map_retention",
        "coverage",
        "kid_of_inpaint",
        "memorization_gap",
    }
    asked = graph.get_check_spec(dg.AssetCheckKey(dg.AssetKey("scorecard"), "coverage")).description
    assert asked == "share of regions covered by half or more; at least the bound in `evaluation.gates`"


def test_the_sensor_and_the_schedule_start_the_evaluation():
    assert defs.resolve_sensor_def("new_checkpoints").job_name == "evaluate"
    assert defs.resolve_schedule_def("nightly_reevaluation").job_name == "evaluate"


def test_loading_the_code_location_imports_no_heavy_library():
    heavy = ["torch", "diffusers", "transformers", "insightface", "easyocr", "cv2", "onnxruntime"]
    code = f"import sys, anony_pipeline.definitions; print([m for m in {heavy} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
