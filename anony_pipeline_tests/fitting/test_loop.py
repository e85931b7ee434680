import pytest
import torch

from anony_pipeline.errors import CheckpointError
from anony_pipeline.fitting import loop


def plan(tmp_path, steps=8, progress=None):
    return loop.Plan(
        steps, 3, torch.device("cpu"), tmp_path / "state.pt", progress=progress or (lambda items, _what: iter(items))
    )


def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 1))


def step_of(model):
    def step(_number, randomness):
        data = torch.rand(16, 4, generator=randomness)
        return ((model(data)[:, 0] - data.sum(1)) ** 2).mean()

    return step


def test_a_run_that_is_broken_off_continues_to_the_same_weights_bit_for_bit(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "SAVE_EVERY_SECONDS", 0.0)
    whole = network()
    loop.fit("x", {"n": whole}, step_of(whole), plan(tmp_path / "whole"))

    def broken(items, _what):
        for number in items:
            if number == 5:
                raise KeyboardInterrupt
            yield number

    first = network()
    with pytest.raises(KeyboardInterrupt):
        loop.fit("x", {"n": first}, step_of(first), plan(tmp_path, progress=broken))
    assert (tmp_path / "state.pt").exists()
    second = network()
    loop.fit("x", {"n": second}, step_of(second), plan(tmp_path))
    assert not (tmp_path / "state.pt").exists()
    for name, value in whole.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


def test_the_state_of_another_network_is_refused(tmp_path, monkeypatch):
    torch.save({"step": 1, "networks": {"n": {"w": torch.zeros(1)}}, "optimizer": {}}, tmp_path / "state.pt")
    model = network()
    with pytest.raises(CheckpointError, match="belongs to other networks"):
        loop.fit("x", {"n": model}, step_of(model), plan(tmp_path))


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    model = network()
    with pytest.raises(CheckpointError, match="fitting x diverged"):
        loop.fit("x", {"n": model}, lambda _n, _r: model(torch.zeros(4, 4)).sum() * float("nan"), plan(tmp_path))


def test_the_learning_rate_rises_to_its_peak_and_falls_to_a_hundredth(tmp_path):
    rates = [loop.learning_rate(number, plan(tmp_path, steps=200)) for number in range(200)]
    assert max(rates) == pytest.approx(2e-3)
    assert rates[0] < rates[5] < max(rates)
    assert rates[-1] < 1.05 * 2e-5
    assert rates[10:] == sorted(rates[10:], reverse=True)
