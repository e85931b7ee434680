import itertools
from dataclasses import replace

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


class Hours:
    """A clock of which each look takes an hour."""

    def __init__(self):
        self.hours = itertools.count()

    def time(self):
        return next(self.hours) * 3600.0

    monotonic = time


def test_a_run_with_a_time_limit_ends_by_it_however_many_steps_are_planned(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "time", Hours())
    model, shares = network(), []
    limited = replace(plan(tmp_path, steps=1_000_000), until=60 * 3600.0)
    clock = loop.Clock(limited)
    simple = step_of(model)

    def step(number, randomness):
        shares.append(clock.share.item())
        return simple(number, randomness)

    loop.fit("x", {"n": model}, step, limited, clock)
    assert 5 < clock.steps == len(shares) < 60
    assert shares[: loop.EAGER] == sorted(shares[: loop.EAGER])
    assert shares[0] < 0.1
    assert 0.9 < shares[-1] < 1
    assert shares[3:] == sorted(shares[3:])


def test_a_limited_run_that_is_broken_off_goes_on_at_the_share_that_was_over(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "SAVE_EVERY_SECONDS", 0.0)
    monkeypatch.setattr(loop, "time", Hours())
    limited = replace(plan(tmp_path, steps=100), until=100 * 3600.0)

    def broken(items, _what):
        for number in items:
            if number == 12:
                raise KeyboardInterrupt
            yield number

    model, clock = network(), loop.Clock(limited)
    with pytest.raises(KeyboardInterrupt):
        loop.fit("x", {"n": model}, step_of(model), replace(limited, progress=broken), clock)
    reached = clock.share.item()
    second, seen = network(), []
    later = replace(limited, until=400 * 3600.0)
    clock = loop.Clock(later)
    simple = step_of(second)

    def step(number, randomness):
        seen.append((number, clock.share.item()))
        return simple(number, randomness)

    loop.fit("x", {"n": second}, step, later, clock)
    assert seen[0][0] == 12
    assert reached <= seen[0][1] < reached + 0.05
    assert seen[-1][1] > 0.9


def test_a_run_goes_on_in_its_own_way_of_updating(tmp_path):
    """The state of a run that updates otherwise must not change how this one does: a captured one could not go on."""
    network = torch.nn.Linear(2, 2)
    plan = loop.Plan(4, 0, torch.device("cpu"), tmp_path / "state.pt")
    former = torch.optim.AdamW(network.parameters(), lr=0.5)
    network(torch.ones(1, 2)).sum().backward()
    former.step()
    loop._save(plan.state, loop._state(3, 0.75, {"network": network}, former))
    mine = torch.optim.AdamW(network.parameters(), lr=torch.tensor(0.1), fused=True)
    assert loop._restore(plan, {"network": network}, mine) == (3, 0.75)
    group = mine.param_groups[0]
    assert group["fused"]
    assert isinstance(group["lr"], torch.Tensor)
    assert mine.state[network.weight]["step"] == 1
