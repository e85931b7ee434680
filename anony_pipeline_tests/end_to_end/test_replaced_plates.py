"""A replaced plate is still found as a plate, and nobody reads the old serial: by what `benchmarks/` measures."""

import pytest
import torch

from anony_pipeline import project
from anony_pipeline.config import loading
from anony_pipeline.evaluation import judges
from benchmarks import replaced_plates

pytestmark = pytest.mark.slow


def test_replaced_plates_are_found_again_and_their_serials_are_gone(tmp_path):
    panel = judges.load_without_checkpoint(loading.load([project.find("configs/demo.yaml")]), torch.device("cpu"))
    by_width = replaced_plates.measured(replaced_plates.street(tmp_path, 4), panel)
    assert sum(group["plates"] for group in by_width.values()) >= 4
    for group in by_width.values():
        for name in panel.detectors:
            # One plate of a group may be missed by chance.
            assert group[f"found/{name}/after"] >= group[f"found/{name}/before"] - 1 / group["plates"]
        for name in panel.readers:
            assert group[f"original_read/{name}/after"] == 0
    assert any(group[f"original_read/{name}/before"] > 0 for group in by_width.values() for name in panel.readers)
