import dataclasses

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anony_pipeline.structures.regions import Kind
from anony_pipeline.training import batches
from anony_pipeline.training.batches import Generated
from anony_pipeline_tests.training import tiny


@pytest.fixture(scope="module")
def generator(tmp_path_factory):
    return tiny.make_generator(tiny.make_config(tmp_path_factory.mktemp("config")))


def draw(data, generator, step, seed=0, size=4):
    return batches.draw_batch(
        data, generator, size=size, seed=seed, stream="joint", step=step, device=torch.device("cpu")
    )


def test_a_step_draws_the_same_whenever_it_is_asked(data, generator):
    first, again = draw(data, generator, 3), draw(data, generator, 3)
    assert first.indices == again.indices
    assert torch.equal(first.noise, again.noise)
    assert torch.equal(first.masks, again.masks)


def test_two_steps_draw_differently(data, generator):
    noises = {draw(data, generator, step).noise.sum().item() for step in range(6)}
    assert len(noises) == 6


def test_an_epoch_shows_each_sample_once(data, generator, monkeypatch):
    monkeypatch.setattr(batches, "kind_of_step", lambda *_: Kind.FACE)
    count = len(data.samples[Kind.FACE])
    seen = [index for step in range(count // 4) for index in draw(data, generator, step).indices]
    assert sorted(seen) == list(range(count))


def test_both_kinds_are_drawn(data):
    kinds = [batches.kind_of_step(data, 0, "joint", step) for step in range(40)]
    assert 10 < kinds.count(Kind.FACE) < 30
    # Not in step with a cycle of two generator steps.
    assert len({kinds[step] for step in range(0, 40, 2)}) == 2


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), box=st.tuples(*[st.integers(2, 12)] * 2, *[st.integers(16, 30)] * 2))
def test_a_grown_mask_covers_the_mask_and_never_wanders_off(seed, box):
    mask = np.zeros((32, 32), np.uint8)
    mask[box[1] : box[3], box[0] : box[2]] = 1

    class Row:
        box_xyxy = box

    grown = batches.grow_mask(mask, Row, np.random.default_rng(seed))
    assert (grown >= mask).all()
    margin = int(batches.MASK_GROWTH / 2 * 30) + 1
    reach = cv2.dilate(mask, np.ones((2 * margin + 1, 2 * margin + 1), np.uint8))
    assert (grown <= reach).all()


def test_masks_grow_to_all_sides():
    mask = np.zeros((64, 64), np.uint8)
    mask[24:40, 24:40] = 1

    class Row:
        box_xyxy = (0, 0, 60, 60)

    grown = sum(batches.grow_mask(mask, Row, np.random.default_rng(seed)).astype(int) for seed in range(30))
    assert grown[32, 22] > 0
    assert grown[32, 41] > 0
    assert grown[22, 32] > 0
    assert grown[41, 32] > 0


def test_parts_of_a_batch_are_the_batch(data, generator):
    batch = draw(data, generator, 0)
    parts = [batch.part(range(3)), batch.part(range(3, 4))]
    assert [len(part) for part in parts] == [3, 1]
    assert torch.equal(torch.cat([part.originals for part in parts]), batch.originals)


def generated_of(data, kind, indices, color):
    samples = data.samples[kind]
    outputs = torch.full((len(indices), 3, *samples.masks.shape[1:]), color)
    return Generated(kind, tuple(indices), outputs, outputs[:, :1], outputs)


def test_the_detector_sees_the_crops_that_were_generated_last(data):
    made = generated_of(data, Kind.FACE, [0], color=1.0)
    batch = batches.draw_detector_batch(data, made, size=1, seed=0, step=0, device=torch.device("cpu"))
    row = data.samples[Kind.FACE].rows[0]
    number = next(n for n, known in enumerate(data.detector.rows) if known.image_id == row.image_id)
    original, anonymized = batch.images
    assert np.array_equal(
        (original.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8), data.detector.originals[number]
    )
    changed = (anonymized * 255).round().permute(1, 2, 0).numpy() != data.detector.filled[number]
    white = (anonymized == 1).all(dim=0).numpy()
    assert white.sum() > 100
    assert not (changed.any(axis=2) & ~white).any()


def test_the_detector_gets_originals_and_their_anonymized_versions_with_the_same_boxes(data):
    batch = batches.draw_detector_batch(data, None, size=2, seed=0, step=1, device=torch.device("cpu"))
    assert len(batch.images) == len(batch.targets) == len(batch.not_exhaustive) == 4
    for original, anonymized in zip(batch.targets[:2], batch.targets[2:], strict=True):
        assert torch.equal(original["boxes"], anonymized["boxes"])
    assert not torch.equal(batch.images[0], batch.images[2])


@pytest.mark.parametrize("kind", list(Kind))
def test_the_masks_of_a_step_cover_the_regions_and_mostly_more(data, generator, monkeypatch, kind):
    monkeypatch.setattr(batches, "kind_of_step", lambda *_: kind)
    samples, grown, seen = data.samples[kind], [], {}
    for step in range(8):
        batch = draw(data, generator, step)
        for index, mask in zip(batch.indices, batch.masks[:, 0].numpy(), strict=True):
            assert (mask >= samples.masks[index]).all()
            grown.append(mask.sum() > samples.masks[index].sum())
            seen.setdefault(index, set()).add(mask.tobytes())
    assert sum(grown) > 0.7 * len(grown)
    # From epoch to epoch otherwise.
    assert sum(len(different) > 1 for different in seen.values()) > len(seen) / 2


def test_the_detector_learns_of_crowds_and_of_what_images_do_not_label(data):
    rows = [
        dataclasses.replace(row, iscrowd=tuple(index == number % 3 for index in range(3)), not_exhaustive=ids)
        for number, (row, ids) in enumerate(zip(data.detector.rows, [(), (2,), (1, 2)] * 2, strict=True))
    ]
    marked = dataclasses.replace(data, detector=dataclasses.replace(data.detector, rows=rows))
    batch = batches.draw_detector_batch(marked, None, size=6, seed=0, step=0, device=torch.device("cpu"))
    known = {row.boxes_xyxy: row for row in rows}
    for target, ids in zip(batch.targets, batch.not_exhaustive, strict=True):
        row = known[tuple(map(tuple, target["boxes"].tolist()))]
        assert tuple(target["iscrowd"].tolist()) == row.iscrowd
        assert ids == row.not_exhaustive
