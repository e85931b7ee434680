"""Latents that are kept give the steps that encoding anew gives, and a build that was killed goes on."""

import dataclasses
import logging
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from anony_pipeline.errors import DatasetError
from anony_pipeline.models.generator import Generator
from anony_pipeline.models.generator import load_generator as load
from anony_pipeline.runtime.processes import Team
from anony_pipeline.storage import manifests
from anony_pipeline.structures.regions import Kind
from anony_pipeline.training import batches, latents
from anony_pipeline_tests.models.tiny_pipelines import save_pipeline
from anony_pipeline_tests.training import tiny

CPU = torch.device("cpu")


@pytest.fixture(scope="session")
def autoencoding(tmp_path_factory):
    """A folder of Stable Diffusion's architecture: its autoencoder shrinks, as the demo's codec does not."""
    return save_pipeline("sd15", tmp_path_factory.mktemp("pipeline"))


@pytest.fixture
def settings(config, autoencoding, tmp_path):
    return config(
        paths__cache=str(tmp_path / "cache"),
        training__mask_variants=3,
        model__generator__diffusers={"model_id": str(autoencoding)},
    )


@pytest.fixture
def generator(settings):
    return load(settings, device=CPU, dtype=torch.float32)


def kept(data, settings, generator):
    return dataclasses.replace(data, latents=latents.build(settings, data, generator))


@pytest.mark.parametrize("small", [False, True], ids=["one size", "some at half"])
def test_two_processes_of_a_machine_encode_a_half_each_and_end_with_the_same_latents(
    data, settings, generator, tmp_path, monkeypatch, small
):
    """Threads stand for processes: what they share is files."""
    if small:
        monkeypatch.setattr(Generator, "is_small", lambda self, window, size_hw: int(window[0]) % 2 == 0)
        generator.has_small_crops = True
    meeting, encoded = threading.Barrier(2, timeout=60), {0: [], 1: []}

    class Threads(Team):
        def wait(self):
            meeting.wait()

        def any(self, flag):
            meeting.wait()
            return flag

    encode = latents._Writer._encode

    def seen(self, samples, index):
        encoded[self.team.rank].append((samples.kind, index))
        return encode(self, samples, index)

    alone = latents.build(settings, data, generator)
    monkeypatch.setattr(latents._Writer, "_encode", seen)
    elsewhere = settings.model_copy(update={"paths": settings.paths.model_copy(update={"cache": str(tmp_path / "2")})})
    with ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(latents.build, elsewhere, data, generator, Threads(rank, 2)) for rank in range(2)]
        together = [job.result() for job in jobs]
    assert sorted(len(each) for each in encoded.values()) == [9, 9]
    assert len({*encoded[0], *encoded[1]}) == 18
    for kind, found in alone.items():
        for other in together:
            assert np.array_equal(found.masked, other[kind].masked)
            assert np.array_equal(found.anchored, other[kind].anchored)


def draw(data, generator, step):
    return batches.draw_batch(data, generator, size=2, seed=0, stream="joint", step=step, device=CPU)


@pytest.mark.parametrize("small", [False, True], ids=["one size", "some at half"])
def test_a_step_with_kept_latents_is_the_step_that_encodes_anew(data, settings, generator, monkeypatch, small):
    if small:
        monkeypatch.setattr(Generator, "is_small", lambda self, window, size_hw: int(window[0]) % 2 == 0)
        generator.has_small_crops = True
    cached = kept(data, settings, generator)
    seen, sizes = set(), set()
    generator.unet.register_forward_pre_hook(lambda _, given: sizes.add(given[0].shape[-2]))
    for step in range(6):
        batch = draw(cached, generator, step)
        assert batch.encoded is not None
        with torch.no_grad():
            anew = batches.fill(generator, dataclasses.replace(batch, encoded=None))
        with torch.no_grad(), monkeypatch.context() as patch:
            patch.setattr(Generator, "encode", lambda *_: pytest.fail("something was encoded again"))
            filled = batches.fill(generator, batch)
        # Encoding one crop after the other rounds differently from encoding a batch.
        assert torch.allclose(filled, anew, atol=1e-4)
        assert (filled != batch.originals).any()
        seen.add(batch.kind)
    assert seen == set(Kind)
    assert len(sizes) == (2 if small else 1)


def test_whole_steps_train_the_same_weights_with_and_without(data, settings, generator):
    from anony_pipeline.models import lora
    from anony_pipeline.training import joint
    from anony_pipeline.training.networks import Networks
    from anony_pipeline.training.objective import Objective
    from anony_pipeline.training.state import TrainingState

    cached = kept(data, settings, generator)
    trained = []
    for use in (True, False):
        own = load(settings, device=CPU, dtype=torch.float32)
        torch.manual_seed(2)
        lora.make_trainable(own, settings.model.finetune)
        state = TrainingState.fresh(settings, "pretrain", Networks(own.train(), None, tiny.build_detector()))
        objective = Objective(tiny.make_critics(settings), None, settings.loss, 0.0)
        for step in range(2):
            batch = draw(cached, own, step)
            joint.step_generator(state, batch if use else dataclasses.replace(batch, encoded=None), objective)
        trained.append(state.ema)
    assert any(value.abs().sum() > 0 for value in trained[0].values())
    for name, value in trained[0].items():
        assert torch.allclose(value, trained[1][name], atol=1e-5), name


def test_parts_of_a_batch_keep_their_latents(data, settings, generator):
    batch = draw(kept(data, settings, generator), generator, 0)
    parts = [batch.part([0]), batch.part([1])]
    assert torch.equal(torch.cat([part.encoded.masked for part in parts]), batch.encoded.masked)


def test_a_mask_is_one_of_its_crops_variants_and_all_occur(data, settings, generator):
    cached = kept(data, settings, generator)
    found = {kind: set() for kind in Kind}
    for step in range(30):
        batch = draw(cached, generator, step)
        samples = cached.samples[batch.kind]
        for index, mask in zip(batch.indices, batch.masks[:, 0].numpy().astype(np.uint8), strict=True):
            variants = [batches.variant_mask(samples, index, number, 0) for number in range(3)]
            found[batch.kind].add(next(number for number, known in enumerate(variants) if np.array_equal(known, mask)))
    assert found == {kind: {0, 1, 2} for kind in Kind}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_kept_as_it_is(data, settings, dtype):
    half = load(settings, device=CPU, dtype=dtype)
    encoded = latents.build(settings, data, half)[Kind.FACE].encoded([1], [2])
    samples = data.samples[Kind.FACE]
    mask = torch.from_numpy(batches.variant_mask(samples, 1, 2, 0).astype(np.float32))[None, None]
    expected = half.encode_crops(batches.images.to_tensor([samples.originals[1]]), mask)
    assert encoded.masked.dtype == dtype
    assert torch.allclose(encoded.masked.float(), expected.masked.float(), atol=2e-2)


def test_the_size_is_said_before_and_is_the_size_after(data, settings, generator, caplog):
    caplog.set_level(logging.INFO, "anony_pipeline")
    said = []
    folder = Path(settings.paths.cache) / "latents"
    original = latents._Writer._write_kind

    def write(self, kind, samples):
        said.append(caplog.text)
        original(self, kind, samples)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latents._Writer, "_write_kind", write)
        latents.build(settings, data, generator)
    assert "latents of 18 crops under 3 masks each: 0 MB" in said[0]
    arrays = list(folder.rglob("*.npy"))
    assert sum(np.load(path).nbytes for path in arrays) == latents._Writer(data, generator, folder, 3, 0)._bytes(
        Kind.FACE
    ) + latents._Writer(data, generator, folder, 3, 0)._bytes(Kind.PLATE)
    assert {stat.S_IMODE(path.stat().st_mode) for path in arrays} == {0o600}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_killed_build_goes_on_where_it_was_and_ends_as_one_that_was_not(data, settings, generator, monkeypatch):
    monkeypatch.setattr(latents, "MARKED_TOGETHER", 2)
    encode, calls = latents._Writer._encode, []

    def dies(self, samples, index):
        calls.append((samples.kind, index))
        if len(calls) == 6:
            raise KeyboardInterrupt
        return encode(self, samples, index)

    with monkeypatch.context() as patch:
        patch.setattr(latents._Writer, "_encode", dies)
        with pytest.raises(KeyboardInterrupt):
            latents.build(settings, data, generator)
    (folder,) = (path for path in (Path(settings.paths.cache) / "latents").iterdir() if path.is_dir())
    assert not (folder / manifests.NAME).exists()
    interrupted, calls[:] = list(calls), []

    def counted(self, samples, index):
        calls.append((samples.kind, index))
        return encode(self, samples, index)

    with monkeypatch.context() as patch:
        patch.setattr(latents._Writer, "_encode", counted)
        resumed = latents.build(settings, data, generator)
    # Four were marked as done; of the sixth there was nothing yet, and the fifth was not marked.
    assert calls[0] == interrupted[4]
    assert len(calls) == 18 - 4
    once = tiny_again(settings, data, generator)
    for kind in Kind:
        assert np.array_equal(resumed[kind].masked, once[kind].masked)


def tiny_again(settings, data, generator):
    other = settings.model_copy(
        update={"paths": settings.paths.model_copy(update={"cache": f"{settings.paths.cache}2"})}
    )
    return latents.build(other, data, generator)


def test_they_are_made_once_and_anew_for_another_autoencoder(data, settings, generator, monkeypatch):
    latents.build(settings, data, generator)
    root = Path(settings.paths.cache) / "latents"
    with monkeypatch.context() as patch:
        patch.setattr(latents._Writer, "write", lambda _: pytest.fail("they were made again"))
        latents.build(settings, data, generator)
    with torch.no_grad():
        next(generator.vae.parameters()).add_(1e-3)
    latents.build(settings, data, generator)
    assert len([path for path in root.iterdir() if path.is_dir()]) == 2


def test_none_are_kept_by_default(data, config, generator):
    assert latents.build(config(), data, generator) == {}
    assert draw(data, generator, 0).encoded is None


def test_a_full_disk_is_said_before_anything_is_written(data, settings, generator, monkeypatch):
    monkeypatch.setattr(latents.disk.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10}))
    with pytest.raises(DatasetError, match=r"no room for the latents[\s\S]*training\.mask_variants"):
        latents.build(settings, data, generator)
