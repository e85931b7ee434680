"""The Colab notebook, executed from the first cell to the last, and again after the runtime went away."""

import json
import os
import shutil
import sys
from pathlib import Path

import nbclient
import nbformat
import pytest

from anony_pipeline_tests.end_to_end import smoke

NOTEBOOK = smoke.ROOT / "notebooks" / "planB_colab.ipynb"


def read():
    return nbformat.read(NOTEBOOK, as_version=4)


def execute(work, drive, max_steps):
    """Run all cells with the smoke profile; returns the notebook with its outputs."""
    work.mkdir(exist_ok=True)
    notebook = read()
    (place,) = [i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", ())]
    values = f'PROFILE, MAX_STEPS, DRIVE, WORK = "smoke", {max_steps}, "{drive}", "{work}"'
    notebook.cells.insert(place + 1, nbformat.v4.new_code_cell(values))
    nbclient.NotebookClient(notebook, timeout=1200, resources={"metadata": {"path": str(work)}}).execute()
    return notebook


def shown(notebook):
    """All text that the cells put out."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    texts = [output.get("text", "") + output.get("data", {}).get("text/html", "") for output in outputs]
    return "\n".join(texts)


def test_it_is_a_valid_notebook_without_outputs():
    notebook = read()
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert not cell.outputs
            assert cell.execution_count is None
            compile(cell.source, "cell", "exec")


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_it_runs_to_its_end_and_goes_on_after_the_runtime_was_lost(tmp_path, monkeypatch):
    for name, value in smoke.environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    work, drive = tmp_path / "runtime", tmp_path / "drive"

    text = shown(execute(work, drive, max_steps=2))
    outputs = drive / "outputs" / "smoke"
    assert json.loads((outputs / "scorecard.json").read_text())["subject"]["checkpoint"] == "step_000002"
    for part in ("anonymizer", "map_retention", "report:", "step_000002"):
        assert part in text
    adapters = drive / "adapters" / "smoke-step_000002"
    assert {path.parent.name for path in adapters.rglob("*.safetensors")} >= {"face", "plate"}

    shutil.rmtree(work)
    execute(work, drive, max_steps=4)
    events = [json.loads(line) for line in (outputs / "events.jsonl").read_text().splitlines()]
    assert [event["step"] for event in events if event["event"] == "begin"] == [0, 2]
    assert json.loads((outputs / "scorecard.json").read_text())["subject"]["checkpoint"] == "step_000004"
