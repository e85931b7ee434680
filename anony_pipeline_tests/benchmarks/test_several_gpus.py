import json

import pytest

from benchmarks import several_gpus

ROW = {"l1": 0.5, "gradient_norm": 2.0, "seconds": 1.0}


def curve(steps=3, **last):
    rows = [{"step": float(number + 1), **ROW} for number in range(steps)]
    return [*rows[:-1], rows[-1] | last]


def test_curves_are_compared_step_by_step_as_the_tests_compare_them():
    found = several_gpus.differences(curve(), curve(seconds=9.0))
    assert found["largest"] == {"gradient_norm": 0.0, "l1": 0.0}
    assert found["first_step_beyond_1e-4"] is None
    found = several_gpus.differences(curve(), curve(l1=0.501))
    assert found["largest"]["l1"] == pytest.approx(1e-3)
    assert found["first_step_beyond_1e-4"] == 3
    # A gradient jumps where a ReLU opens: it is shown, and says nothing about the curves.
    assert several_gpus.differences(curve(), curve(gradient_norm=2.1))["first_step_beyond_1e-4"] is None


def test_curves_of_other_steps_are_refused():
    with pytest.raises(ValueError, match="step 3 has other figures"):
        several_gpus.differences(curve(), curve(id=0.1))


def test_what_was_measured_is_compared_and_what_is_missing_is_left_out(tmp_path):
    common = {"device": "H", "torch": "2", "host": "x", "cores": 1}
    one = {**common, "processes": 1, "fp32": curve(), "fp32 again": curve(), "rates": {"images_per_second": 10.0}}
    two = {**common, "processes": 2, "fp32": curve(), "rates": {"images_per_second": 19.0}, "fsdp failed": "why"}
    (tmp_path / "by_1.json").write_text(json.dumps(one))
    (tmp_path / "by_2.json").write_text(json.dumps(two))
    found = several_gpus.compare(tmp_path)
    assert found["lora_at_sd2_size"]["times_as_fast"] == 1.9
    assert list(found["curves"]) == ["fp32: one process against several", "fp32: one process, twice"]
    assert found["lora_at_sdxl_size"] == {}
    assert found["failed"] == {"several, fsdp": "why"}
