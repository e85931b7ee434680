import json

import torch

from benchmarks import training_step


def test_all_that_learns_is_on_the_device_that_is_measured(tmp_path):
    """The device of shapes alone stands for a GPU: what is copied too early stays behind on the CPU."""
    device = torch.device("meta")
    _, _, state, objective = training_step.prepared(tmp_path, device)
    networks, critics = state.networks, objective.critics
    everywhere = {value.device for value in state.ema.values()}
    for network in (networks.discriminator, networks.detector, critics.recognizer, critics.reader, critics.detector):
        everywhere |= {value.device for value in network.parameters()}
    assert everywhere == {device}
    recurrent = [layer for layer in critics.reader.modules() if isinstance(layer, torch.nn.RNNBase)]
    assert recurrent
    assert all(layer.training for layer in recurrent), "cuDNN has no gradient of them otherwise"


def test_each_device_has_a_row_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(training_step, "RESULT", tmp_path / "training_step.json")
    training_step.write("one", {"steps": 1})
    training_step.write("another", {"steps": 2})
    written = training_step.write("one", {"steps": 3})
    assert json.loads(training_step.RESULT.read_text()) == written
    assert written["by_device"] == {"one": {"steps": 3}, "another": {"steps": 2}}
