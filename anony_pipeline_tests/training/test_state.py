import errno
import json
import pickle
import shutil

import pytest
import torch

from anony_pipeline.config import loading
from anony_pipeline.errors import CheckpointError
from anony_pipeline.models import lora
from anony_pipeline.storage import atomic, manifests
from anony_pipeline.structures.regions import Kind
from anony_pipeline.training import batches, joint, state
from anony_pipeline.training.objective import Objective
from anony_pipeline.training.state import TrainingState
from anony_pipeline_tests.training import tiny

CPU = torch.device("cpu")


@pytest.fixture
def trained(data, config):
    """A state after one step of each network."""
    settings = config()
    current = TrainingState.fresh(settings, "joint", tiny.make_networks(settings))
    objective = Objective(tiny.make_critics(settings), current.networks.discriminator, settings.loss, 0.0)
    batch = batches.draw_batch(data, current.networks.generator, size=2, seed=0, stream="joint", step=0, device=CPU)
    joint.step_generator(current, batch, objective)
    joint.step_discriminator(current, current.generated)
    joint.step_detector(current, batches.draw_detector_batch(data, None, size=1, seed=0, step=0, device=CPU))
    current.progress.step, current.progress.cursor = 1, 3
    current.generated = None
    return current


def fresh(config):
    settings = config()
    networks = tiny.make_networks(settings)
    for value in [*networks.detector.parameters(), *networks.discriminator.parameters()]:
        value.data.zero_()
    return TrainingState.fresh(settings, "joint", networks)


def test_everything_comes_back(trained, config, tmp_path):
    saved = trained.save(tmp_path, "print", {"fid": 1.5})
    loaded = fresh(config)
    manifest = loaded.load(saved.path)
    assert manifest["metrics"] == {"fid": 1.5}
    assert loaded.progress == trained.progress
    assert equal(loaded.ema, trained.ema)
    for name in ("generator", "discriminator", "detector"):
        assert equal(getattr(loaded.networks, name).state_dict(), getattr(trained.networks, name).state_dict())
        first, second = loaded.optimizers[name].state_dict(), trained.optimizers[name].state_dict()
        assert first["state"].keys() == second["state"].keys()
        for index, entries in second["state"].items():
            assert equal(first["state"][index], entries)


def test_the_folder_is_what_the_architecture_says(trained, config, tmp_path):
    saved = trained.save(tmp_path, "print", {"fid": 1.5})
    files = {path.relative_to(saved.path).as_posix() for path in saved.path.rglob("*") if path.is_file()}
    assert saved.path.name == "step_000001"
    assert files >= {
        "adapters/face/pytorch_lora_weights.safetensors",
        "adapters/plate/pytorch_lora_weights.safetensors",
        "detector.safetensors",
        "discriminator.safetensors",
        "ema.safetensors",
        "optimizer.safetensors",
        "optimizer.json",
        "state.json",
        "config.yaml",
        "manifest.json",
    }
    manifest = json.loads((saved.path / "manifest.json").read_text())
    assert manifest["format"] == "anony_pipeline.checkpoint/1"
    assert manifest["stage"] == "joint"
    assert manifest["base_model"] == "tiny@random"
    assert set(manifest["files"]) == files - {"manifest.json"}
    assert saved.manifest_sha256 == manifests.sha256_of(saved.path / "manifest.json")
    assert loading.load([saved.path / "config.yaml"]) == config()


def test_the_adapters_are_the_averaged_ones(trained, tmp_path):
    saved = trained.save(tmp_path, "print", {})
    generator = tiny.make_generator(trained.config)
    lora.load_adapters(generator, saved.path / "adapters")
    found = lora.trainable_parameters(generator)
    assert equal(dict(found), trained.ema)


def test_there_are_no_pickles(trained, tmp_path):
    saved = trained.save(tmp_path, "print", {})
    for path in saved.path.rglob("*"):
        if path.is_file():
            assert path.suffix in (".safetensors", ".json", ".yaml")
            with pytest.raises((pickle.UnpicklingError, ValueError, KeyError, EOFError, AttributeError, IndexError)):
                pickle.loads(path.read_bytes()[:64])


def test_a_checkpoint_without_a_manifest_is_refused(trained, config, tmp_path):
    saved = trained.save(tmp_path, "print", {})
    (saved.path / "manifest.json").unlink()
    assert state.latest(tmp_path) is None
    with pytest.raises(CheckpointError, match="there is no manifest"):
        fresh(config).load(saved.path)


@pytest.mark.parametrize("name", ["ema.safetensors", "optimizer.json", "detector.safetensors"])
def test_a_damaged_file_is_refused(trained, config, tmp_path, name):
    saved = trained.save(tmp_path, "print", {})
    data = bytearray((saved.path / name).read_bytes())
    data[-5] ^= 1
    (saved.path / name).write_bytes(bytes(data))
    with pytest.raises(CheckpointError, match="another sha256"):
        fresh(config).load(saved.path)


@pytest.mark.parametrize("damage", ["other bytes", "cut", "missing"])
def test_a_damaged_checkpoint_gives_way_to_the_good_one_before_it(trained, tmp_path, damage, caplog):
    first = trained.save(tmp_path, "print", {})
    trained.progress.step = 2
    file = trained.save(tmp_path, "print", {}).path / "ema.safetensors"
    data = file.read_bytes()
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(data[:-1] if damage == "cut" else data[:-1] + bytes([data[-1] ^ 1]))
    assert state.latest(tmp_path, "print").path == first.path
    assert str(file) in caplog.text


def test_a_full_disk_leaves_the_checkpoint_before(trained, tmp_path, monkeypatch):
    first = trained.save(tmp_path, "print", {})
    trained.progress.step = 2
    written = atomic.write_bytes

    def full(path, data, mode=None):
        if "detector" in path.name:
            raise OSError(errno.ENOSPC, "No space left on device")
        written(path, data, mode)

    monkeypatch.setattr(atomic, "write_bytes", full)
    with pytest.raises(CheckpointError, match="No space left on device") as caught:
        trained.save(tmp_path, "print", {})
    assert str(first.path) in str(caught.value)
    assert [saved.step for saved in state.list_checkpoints(tmp_path)] == [1]
    assert [path.name for path in tmp_path.iterdir()] == ["step_000001"]
    assert state.read_manifest(first.path)["step"] == 1


def test_a_checkpoint_of_another_base_model_is_refused(trained, config, tmp_path):
    saved = trained.save(tmp_path, "print", {})
    other = fresh(config)
    other.networks.generator.base_id = "another@model"
    with pytest.raises(CheckpointError, match="another base model"):
        other.load(saved.path)


def test_a_checkpoint_of_other_layers_is_refused(trained, config, tmp_path):
    saved = trained.save(tmp_path, "print", {})
    settings = config(model__finetune__lora_rank=3)
    other = TrainingState.fresh(settings, "joint", tiny.make_networks(settings))
    with pytest.raises(CheckpointError, match="of other layers"):
        other.load(saved.path)


def test_a_checkpoint_with_another_discriminator_is_refused(trained, config, tmp_path):
    saved = trained.save(tmp_path, "print", {})
    settings = config(model__discriminator__channels=8)
    other = TrainingState.fresh(settings, "joint", tiny.make_networks(settings))
    with pytest.raises(CheckpointError, match="another architecture"):
        other.load(saved.path)


def test_the_last_ones_and_the_best_are_kept(trained, tmp_path):
    for step, distance in enumerate([3.0, 1.0, 2.0, 4.0, 5.0], start=1):
        trained.progress.step = step
        trained.save(tmp_path, "print", {"fid": distance})
    trained.progress.step = 9
    trained.save(tmp_path, "other", {"fid": 0.1})
    removed = state.prune(tmp_path, "print", keep_last=2)
    assert [path.name for path in removed] == ["step_000001", "step_000003"]
    assert [saved.step for saved in state.list_checkpoints(tmp_path, "print")] == [2, 4, 5]
    assert state.latest(tmp_path, "print").step == 5
    assert state.latest(tmp_path).config_fingerprint == "other"


def test_a_checkpoint_may_be_moved(trained, config, tmp_path):
    saved = trained.save(tmp_path / "a", "print", {})
    shutil.move(saved.path, tmp_path / "b")
    moved = fresh(config)
    moved.load(tmp_path / "b")
    assert equal(moved.ema, trained.ema)


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_kinds_are_both_saved(trained, tmp_path):
    saved = trained.save(tmp_path, "print", {})
    index = json.loads((saved.path / "adapters" / lora.INDEX_FILE).read_text())
    assert set(index["adapters"]) == {lora.ADAPTERS[kind] for kind in Kind}


def test_each_network_learns_at_its_own_rate(config):
    settings = config(lr__generator=1e-3, lr__discriminator=2e-3, lr__detector=3e-3)
    optimizers = TrainingState.fresh(settings, "joint", tiny.make_networks(settings)).optimizers
    found = {name: [group["lr"] for group in optimizer.param_groups] for name, optimizer in optimizers.items()}
    assert found == {"generator": [1e-3], "discriminator": [2e-3], "detector": [3e-3]}


def test_the_average_has_the_memory_that_was_asked_for(config):
    settings = config(training__ema_decay=0.75)
    current = TrainingState.fresh(settings, "joint", tiny.make_networks(settings))
    # Long after the warm-up.
    current.progress.updates = 10_000
    before = {name: value.clone() for name, value in current.ema.items()}
    for value in lora.trainable_parameters(current.networks.generator).values():
        value.data += 1
        value.grad = torch.zeros_like(value)
    current.apply("generator")
    for name, value in current.ema.items():
        assert torch.allclose(value, before[name] + 0.25, atol=1e-5)


@pytest.mark.parametrize(("precision", "scales"), [("fp32", False), ("bf16", False), ("fp16", True)])
def test_gradients_are_scaled_in_fp16_alone(config, precision, scales):
    settings = config(precision=precision)
    assert TrainingState.fresh(settings, "joint", tiny.make_networks(settings)).scaler.is_enabled() is scales
