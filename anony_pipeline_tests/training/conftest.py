import pytest
import torch
from torch.distributed.tensor import DTensor

from anony_pipeline.datasets import loaders, unify
from anony_pipeline.training import loop, networks, validation
from anony_pipeline_tests.training import tiny


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tiny_root(tmp_path_factory):
    """The tiny data set and its caches: made once, used by all."""
    root = tmp_path_factory.mktemp("tiny")
    tiny.make_coco(root)
    return root


@pytest.fixture
def config(tiny_root, tmp_path):
    """The tiny configuration with shared data and outputs of its own."""

    def make(**changes):
        own = {"paths__outputs": str(tmp_path / "outputs"), "paths__private": str(tmp_path / "private")}
        return tiny.make_config(tiny_root, **(own | changes))

    return make


def patch_training(root, monkeypatch):
    """Let `loop.train` work on the tiny set with tiny networks and judges."""
    monkeypatch.setattr(loaders, "open_split", lambda config, split: tiny.coco.load(root / "unified_train.json"))
    monkeypatch.setattr(unify, "ensure_unified", lambda config: None)
    monkeypatch.setattr(networks, "load_networks", tiny.make_networks)
    monkeypatch.setattr(networks, "load_critics", tiny.make_critics)
    make_targets = loop.make_face_targets
    monkeypatch.setattr(
        loop,
        "make_face_targets",
        lambda config, coco, **given: make_targets(config, coco, recognizer=tiny.ColorRecognizer(), **given),
    )
    judges = validation.Judges(tiny.ColorRecognizer(), tiny.NoReader(), tiny.MeanFeatures())
    monkeypatch.setattr(validation, "load_judges", lambda config, device: judges)
    return loop.train


def kept_weights(monkeypatch):
    """Remember the next training's networks; what is returned counts its frozen weights, in this process and in all."""
    made = []
    make = networks.load_networks

    def load(config, device):
        made.append(make(config, device))
        return made[-1]

    def count():
        frozen = [value for name, value in made[-1].generator.unet.named_parameters() if ".lora_" not in name]
        here = sum(value.to_local().numel() if isinstance(value, DTensor) else value.numel() for value in frozen)
        return here, sum(value.numel() for value in frozen)

    monkeypatch.setattr(networks, "load_networks", load)
    return count


@pytest.fixture
def tiny_training(tiny_root, monkeypatch):
    """`loop.train` on the tiny set with tiny networks and judges."""
    return patch_training(tiny_root, monkeypatch)


@pytest.fixture
def data(tiny_training, config, tiny_root):
    """The tiny set's cache."""
    del tiny_training
    return loop.prepare(config(), tiny.coco.load(tiny_root / "unified_train.json"))[0]
