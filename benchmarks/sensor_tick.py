"""How long a tick of the sensor `new_checkpoints` takes over 500 checkpoints. Aim: less than two seconds.

Checkpoints of ten small files each, on this machine's disk; Dagster's limit for a tick is 60 s. Writes
``benchmarks/results/sensor_tick.json``.
"""

import argparse
import json
import platform
import statistics
import tempfile
import time
import warnings
from pathlib import Path

import dagster as dg

from anony_pipeline.defs import checkpoints
from anony_pipeline.defs.resources import Experiment
from anony_pipeline.defs.sensors import new_checkpoints
from anony_pipeline.storage import manifests

CHECKPOINTS, FILES, ROUNDS = 500, 10, 5
RESULT = Path(__file__).parent / "results" / "sensor_tick.json"


def write(folder):
    """A checkpoint whose files are a few bytes: a tick looks at their sizes alone."""
    folder.mkdir(parents=True)
    for i in range(FILES):
        (folder / f"{i}.safetensors").write_bytes(b"weights")
    manifests.write(folder, {"format": "anony_pipeline.checkpoint/1", "step": 0})


def seconds(experiment, instance):
    """The median over some ticks, and what the last one said."""
    spans = []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        with dg.build_sensor_context(instance=instance, resources={"experiment": experiment}) as context:
            result = new_checkpoints(context)
        spans.append(time.perf_counter() - begin)
    return round(statistics.median(spans), 3), result


def main():
    argparse.ArgumentParser(description=__doc__).parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as name, dg.DagsterInstance.local_temp(name) as instance:
        folder = Path(name)
        experiment = Experiment(layers=["configs/demo.yaml"], overrides=[f"paths.outputs={folder}/outputs"])
        config = experiment.config()
        found = [checkpoints.folder_of(config) / f"step_{step:06d}" for step in range(CHECKPOINTS)]
        for checkpoint in found:
            write(checkpoint)
        all_new, result = seconds(experiment, instance)
        assert result.run_requests[0].run_key.startswith("step_000000:")
        for checkpoint in found:
            card = checkpoints.scorecard_of(config, checkpoint)
            card.parent.mkdir(exist_ok=True)
            card.write_text("{}")
        all_judged, result = seconds(experiment, instance)
        assert isinstance(result, dg.SkipReason)
        for card in checkpoints.scorecard_of(config, found[0]).parent.iterdir():
            card.unlink()
        for checkpoint in found:
            (checkpoint / "0.safetensors").write_bytes(b"half")
        all_half_written, result = seconds(experiment, instance)
        assert isinstance(result, dg.SkipReason)
    measured = {
        "checkpoints": CHECKPOINTS,
        "rounds": ROUNDS,
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
        "seconds_all_new": all_new,
        "seconds_all_judged": all_judged,
        "seconds_all_half_written": all_half_written,
    }
    RESULT.write_text(json.dumps(measured, indent=1) + "\n")
    print(json.dumps(measured, indent=1))


if __name__ == "__main__":
    main()
