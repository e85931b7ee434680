import csv
import dataclasses
import multiprocessing
import socket

import pytest
import torch

from anony_pipeline.errors import ConfigError
from anony_pipeline.models import lora
from anony_pipeline.structures.regions import Kind
from anony_pipeline.training import batches, joint, loop, networks, state, validation
from anony_pipeline.training.objective import Objective
from anony_pipeline.training.state import TrainingState
from anony_pipeline_tests.training import conftest, tiny

STEPS = 20
MIX = {"model__finetune__style_mix": {"DE": {"style_DE": 1.0}}}
"""For plates of two styles: the processes' shares learn different adapters."""


def settings(root, outputs, **changes):
    # Caches of their own, so that each team makes its samples and latents.
    own = {f"paths__{name}": f"{outputs}/{name}" for name in ("private", "cache")}
    own |= {"paths__outputs": str(outputs), "training__batch_size": 4, "training__mask_variants": 2}
    return tiny.make_config(root, **(own | changes))


def train_as(rank, size, port, root, outputs, changes):
    """One of several processes, in the environment that `accelerate launch` or `torchrun` makes."""
    environment = {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": size,
        "LOCAL_WORLD_SIZE": size,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "OMP_NUM_THREADS": 1,
    }
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, str(value))
        train = conftest.patch_training(root, patch)
        frozen = conftest.kept_weights(patch)
        report = train(settings(root, outputs, **changes), mode="joint", max_steps=STEPS)
        here, everywhere = frozen()
        assert here < 0.6 * everywhere if "training__fsdp" in changes else here == everywhere
        # All have the same checkpoint in hand, and only one of them wrote it.
        assert report.checkpoint == outputs / "checkpoints" / f"step_{STEPS:06d}"


def rows_of(outputs):
    with (outputs / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def assert_same_curves(one, two, near=1e-4):
    assert len(one) == len(two) == STEPS
    compared = set()
    for first, second in zip(one, two, strict=True):
        # Equal blanks: both drew the same kind of region in each step.
        assert {name for name, value in first.items() if value} == {name for name, value in second.items() if value}
        # Rounding moves more where something jumps: average precision where two scores change places, a gradient where
        # a value crosses the kink of a ReLU.
        for name in set(first) - {"seconds", "crops_per_second", "val_map"}:
            if first[name]:
                allowed = 100 * near if name == "gradient_norm" else near
                assert float(second[name]) == pytest.approx(float(first[name]), rel=allowed, abs=allowed), name
                compared.add(name)
    assert {"l1", "perceptual", "id", "adv", "reading", "discriminator", "detector", "gradient_norm"} <= compared


@pytest.fixture(scope="module")
def two_styles(tmp_path_factory):
    """A tiny set whose plates are of two styles."""
    root = tmp_path_factory.mktemp("two_styles")
    tiny.make_coco(root, styles=("FR", "DE"))
    return root


@pytest.mark.slow
@pytest.mark.parametrize("changes", [MIX, {"training__fsdp": True}], ids=["mixed adapters", "shared out"])
def test_two_processes_train_as_one_does_with_two_parts(two_styles, tmp_path, changes):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    spawn = multiprocessing.get_context("spawn")
    # Daemons, because one that waits for a partner that failed would keep the tests from ending.
    team = [
        spawn.Process(target=train_as, args=(rank, 2, port, two_styles, tmp_path / "two", changes), daemon=True)
        for rank in range(2)
    ]
    for process in team:
        process.start()
    with pytest.MonkeyPatch.context() as patch:
        train = conftest.patch_training(two_styles, patch)
        # The same passes, so that rounding is the same: the detector sees crops as whole gray levels, and would jump.
        alone = changes | {"training__fsdp": False, "training__accumulation": 2}
        train(settings(two_styles, tmp_path / "one", **alone), mode="joint", max_steps=STEPS)
    for process in team:
        process.join(timeout=500)
    assert [process.exitcode for process in team] == [0, 0]

    assert_same_curves(rows_of(tmp_path / "one"), rows_of(tmp_path / "two"))
    # What both learned is there, of each style, with its mix.
    loaded = tiny.make_generator(settings(two_styles, tmp_path))
    saved = state.list_checkpoints(tmp_path / "two" / "checkpoints")[-1]
    lora.load_adapters(loaded, saved.path / "adapters")
    names = {"face", "plate", "style_DE"} if changes is MIX else {"face", "plate"}
    assert set(loaded.unet.peft_config) == names
    assert loaded.mixes == ({"DE": (("style_DE", 1.0),)} if changes is MIX else {})
    learned = {
        name.split(".")[-2] for name, value in loaded.unet.named_parameters() if "lora_B" in name and value.any()
    }
    assert learned == names
    # One wrote: no second process left anything of its own.
    assert len(state.list_checkpoints(tmp_path / "two" / "checkpoints")) == 1


@pytest.mark.slow
def test_passes_change_no_loss_curve(config, tiny_training, tmp_path, monkeypatch):
    """Four crops at once, two times two, and four times one, in double precision.

    In single precision rounding alone parts the curves, as soon as a critic's ReLU opens in one and not in another.
    """
    train_in_double(monkeypatch)
    curves = []
    for passes in (1, 2, 4):
        outputs = tmp_path / str(passes)
        sizes = {"training__batch_size": 4, "training__accumulation": passes}
        tiny_training(config(paths__outputs=str(outputs), **sizes), mode="joint", max_steps=STEPS)
        curves.append(rows_of(outputs))
    # What is left: the file has six digits, and CTC counts in single precision.
    assert_same_curves(curves[0], curves[1], near=1e-5)
    assert_same_curves(curves[0], curves[2], near=1e-5)


def train_in_double(patch):
    """Let training compute in double precision, and validate nothing."""
    draw, draw_wholes = batches.draw_batch, batches.draw_detector_batch

    def wholes(*data, **asked):
        drawn = draw_wholes(*data, **asked)
        targets = [target | {"boxes": target["boxes"].double()} for target in drawn.targets]
        return dataclasses.replace(drawn, images=[image.double() for image in drawn.images], targets=targets)

    patch.setattr(batches, "draw_batch", lambda *data, **asked: in_double(draw(*data, **asked)))
    patch.setattr(batches, "draw_detector_batch", wholes)
    patch.setattr(networks, "load_networks", lambda config, device: all_double(tiny.make_networks(config)))
    patch.setattr(networks, "load_critics", lambda config, device: all_double(tiny.make_critics(config)))
    patch.setattr(loop, "measure_margin", lambda *asked: 0.0)
    patch.setattr(validation.Validator, "__call__", lambda self, state, folder: {})


def all_double(made):
    for network in vars(made).values():
        if network is not None:
            network.double()
    return made


def test_passes_change_gradients_by_rounding_alone(two_styles, tmp_path, monkeypatch):
    """In double precision none is left; in single precision a critic's ReLU may open in one and not in another."""
    conftest.patch_training(two_styles, monkeypatch)
    monkeypatch.setattr(TrainingState, "apply", lambda state, name: 0.0)
    data, _ = loop.prepare(settings(two_styles, tmp_path), tiny.coco.load(two_styles / "unified_train.json"))
    critics = all_double(tiny.make_critics(None))
    step = next(number for number in range(20) if batches.kind_of_step(data, 0, "joint", number) is Kind.PLATE)

    def learned(accumulation, passes):
        config = settings(two_styles, tmp_path, training__accumulation=accumulation, **MIX)
        current = TrainingState.fresh(config, "joint", tiny.make_networks(config))
        generator, discriminator = all_double(current.networks).generator, current.networks.discriminator
        drawn = {"size": 4, "seed": 0, "stream": "joint", "step": step, "device": torch.device("cpu")}
        batch = in_double(batches.draw_batch(data, generator, **drawn))
        assert len(joint._parts(current, batch)[1]) == passes
        losses = joint.step_generator(current, batch, Objective(critics, discriminator, config.loss, 0.0))
        return losses, torch.cat(
            [value.grad.flatten() for value in lora.trainable_parameters(generator).values() if value.grad is not None]
        )

    # Plates of two mixes: a pass for each, and a pass for each plate.
    losses, gradient = learned(1, 2)
    same_losses, same = learned(4, 4)
    assert same_losses == pytest.approx(losses, rel=1e-6)
    assert gradient.norm() > 1e-3
    # CTC is computed in single precision.
    assert (same - gradient).norm() < 1e-7 * gradient.norm()


def in_double(batch):
    tensors = {name: value.double() for name, value in vars(batch).items() if isinstance(value, torch.Tensor)}
    return dataclasses.replace(batch, **tensors)


def test_a_batch_that_processes_cannot_share_is_refused(config):
    loop.check_shares(config(training__batch_size=6), 3)
    with pytest.raises(ConfigError, match="6 crops for 4 processes"):
        loop.check_shares(config(training__batch_size=6), 4)


def test_weights_are_not_shared_out_to_one_process(config, tiny_training):
    loop.check_sharding(config(training__fsdp=True), 2)
    with pytest.raises(ConfigError, match=r"(?s)training\.fsdp.*one process.*torchrun"):
        tiny_training(config(training__fsdp=True), mode="joint")
