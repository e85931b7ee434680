"""The page about a training: what it says is what `metrics.csv` says."""

import re

import cv2
import numpy as np
import pytest

from anony_pipeline.training import summary
from anony_pipeline_tests.training import tiny

FACTS = {
    "stage": "joint",
    "step": 100,
    "resumed_from": 0,
    "seconds": 50.0,
    "samples": {"face": 12, "license_plate": 6},
    "trained_parameters": 12345,
    "checkpoint": "step_000100",
    "manifest_sha256": "ab" * 32,
    "bad_steps": 0,
    "finished": True,
}


def rows(count=100):
    """A falling distance, an identity loss at every other step, figures at steps 50 and 100."""
    found = []
    for step in range(1, count + 1):
        row = {"step": step, "l1": 1 / step, "gradient_norm": 2.0}
        if step % 2:
            row["id"] = 0.5
        if step % 50 == 0:
            row |= {"kid": step / 1000, "arcface_mean_sim": 0.3, "train_mean_sim": 0.4, "similarity_gap": 0.1}
        found.append(row)
    return found


def decoded(data):
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)


def test_the_curves_fit_into_metadata_however_long_the_run():
    rng = np.random.default_rng(0)
    noisy = [{"step": step} | {name: rng.random() for name in summary.LOSSES} for step in range(1, 3001)]
    data = summary.curves(noisy)
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert len(data) <= summary.MAX_PNG_BYTES
    assert decoded(data).shape[1] > 500


def test_a_panel_is_drawn_for_what_was_measured_alone():
    def drawn(measured):
        return decoded(summary.curves(measured))

    few = [{"step": step, "l1": 0.5} for step in (1, 2)]
    assert drawn(few).shape[0] < drawn(rows()).shape[0]


def test_the_line_goes_down_where_the_loss_does():
    image = decoded(summary.curves([{"step": step, "l1": 10 - step} for step in range(1, 9)]))
    blue, green, red = (image[..., channel].astype(int) for channel in range(3))
    line = (green - red > 60) & (green - blue > 30)
    y, x = np.nonzero(line)
    # Pixels count downwards; the legend is drawn in the same color and lies to the right.
    left = y[x < np.quantile(x, 0.1)].mean()
    middle = y[(x > np.quantile(x, 0.45)) & (x < np.quantile(x, 0.55))].mean()
    assert left < middle


def test_the_page_says_how_losses_went_and_what_to_look_at(tmp_path):
    config = tiny.make_config(tmp_path)
    text = summary.page(config, FACTS | {"bad_steps": 3}, rows())
    begin, end = np.mean([1 / step for step in range(1, 11)]), np.mean([1 / step for step in range(91, 101)])
    cells = re.search(r"<th scope=\"row\">l1</th><td>100</td><td>([\d.]+)</td><td>([\d.]+)</td>", text)
    assert (float(cells[1]), float(cells[2])) == pytest.approx((begin, end), abs=1e-3)
    assert '<th scope="row">id</th><td>50</td><td>0.500</td>' in text
    assert "3 steps were skipped" in text
    assert "by 0.100: the generator may give back what it learned" in text
    assert "The val kid was lower at step 50" in text
    assert "0.50 s a step" in text
    assert "unet.mid_block" in text


def test_a_run_without_trouble_has_nothing_to_look_at():
    good = [{"step": 1, "kid": 0.2, "similarity_gap": 0.0}, {"step": 2, "kid": 0.1, "similarity_gap": 0.0}]
    assert summary.remarks(good, FACTS) == []
    assert "stopped before its last step" in summary.remarks(good, FACTS | {"finished": False})[0]


@pytest.mark.parametrize(("auc", "said"), [(0.95, True), (0.6, False)])
def test_canaries_are_remarked_on_beyond_chance_alone(tmp_path, auc, said):
    text = summary.page(tiny.make_config(tmp_path, training__canaries=20), FACTS, [{"step": 1, "canary_auc": auc}])
    assert ("the generator memorized faces" in text) == said


def test_the_page_names_no_folder_and_nothing_outside(tmp_path):
    config = tiny.make_config(tmp_path, model__generator__diffusers={"model_id": str(tmp_path / "sd2")})
    text = summary.page(config, FACTS, rows())
    assert str(tmp_path) not in text
    assert "<dt>base model</dt><dd>sd2</dd>" in text
    assert re.findall(r'(?:src|href)="([^"]*)"', text) == ["curves.png"]
    assert "http" not in text
    assert "<script" not in text


def test_without_a_step_nothing_is_written(tmp_path):
    assert summary.write(tmp_path, tiny.make_config(tmp_path), FACTS) is None
    assert list(tmp_path.iterdir()) == []
