import math
from statistics import NormalDist

import numpy as np
import pytest
import torch

from anony_pipeline.fitting import loop, teacher
from anony_pipeline.fitting.crop_store import CropStore
from anony_pipeline.fitting.generator_crops import render_crops
from anony_pipeline.structures.regions import Kind

TINY = (32, 32)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    crops = render_crops(tmp_path_factory.mktemp("crops"), count={Kind.FACE: 8, Kind.PLATE: 2}, seed=0)
    return CropStore(crops, Kind.FACE, torch.device("cpu"))


class GaussianFlow(torch.nn.Module):
    """The exact velocity between standard normal noise and pictures of ``N(mean, sigma^2)``, pixel by pixel."""

    def __init__(self, mean, sigma):
        super().__init__()
        self.mean, self.sigma = mean, sigma

    def forward(self, noisy, times, pictures, masks):
        del pictures, masks
        t = times.view(-1, 1, 1, 1)
        spread = (1 - t) ** 2 * self.sigma**2 + t**2
        # E[noise | noisy] - E[picture | noisy], by the rule for jointly normal variables.
        off = noisy - (1 - t) * self.mean
        return t * off / spread - (self.mean + (1 - t) * self.sigma**2 * off / spread)


def test_following_an_exact_flow_ends_in_its_distribution():
    noise = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    pictures, masks = torch.zeros_like(noise), torch.ones(4, 1, 32, 32)
    made = teacher.draw(GaussianFlow(0.3, 0.1), noise, pictures, masks, steps=40)
    assert made.mean().item() == pytest.approx(0.3 + 0.1 * noise.mean().item(), abs=2e-3)
    assert made.std().item() == pytest.approx(0.1, rel=0.03)
    # The flow of a Gaussian keeps the order of the noise: the same noise, the same place in the distribution.
    assert torch.corrcoef(torch.stack([made.flatten(), noise.flatten()]))[0, 1] > 0.999


def test_times_are_shifted_to_noise_as_by_counting_odds():
    times = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    odds = times / (1 - times)
    assert torch.allclose(teacher.shifted(times), teacher.SHIFT * odds / (1 + teacher.SHIFT * odds))
    assert teacher.shifted(torch.tensor([0.0, 1.0])).tolist() == [0, 1]


def test_one_in_seven_times_is_above_nine_tenths_where_unshifted_one_in_seventy_would_be():
    drawn = teacher.random_times(200_000, torch.Generator().manual_seed(0))

    def above(odds):
        return 1 - NormalDist().cdf(math.log(odds))

    assert (drawn > 0.9).double().mean().item() == pytest.approx(above(9 / teacher.SHIFT), abs=3e-3)
    assert [round(1 / above(odds)) for odds in (9 / teacher.SHIFT, 9)] == [7, 71]


def test_the_exact_velocity_has_no_loss_and_another_one_its_squared_distance():
    picture = torch.full((2, 3, 8, 8), 0.3)
    noise = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    masks = torch.zeros(2, 1, 8, 8)
    masks[:, :, 2:6, 2:6] = 1
    times = torch.tensor([0.2, 0.9])

    def off_by(distance):
        return lambda *_: noise - picture + distance

    assert teacher.flow_loss(off_by(0.0), picture, masks, times, noise).item() == 0
    assert teacher.flow_loss(off_by(0.5), picture, masks, times, noise).item() == pytest.approx(0.25, rel=1e-5)


def test_nothing_under_the_mask_is_seen_and_nothing_outside_changes(store):
    batch = store.draw(2, np.random.default_rng(0))
    net = teacher.FlowNet(TINY).eval()
    noise = torch.randn(batch.images.shape, generator=torch.Generator().manual_seed(1))
    hidden = batch.images.masked_fill(batch.masks > 0.5, torch.nan)
    made, again = (teacher.draw(net, noise, pictures, batch.masks, steps=2) for pictures in (batch.images, hidden))
    outside = (batch.masks < 0.5).expand_as(made)
    assert torch.equal(made, again)
    assert torch.equal(made[outside], batch.images[outside])
    assert not torch.equal(made[~outside], batch.images[~outside])


def test_the_maps_are_those_that_the_velocity_is_made_of(store):
    batch = store.draw(2, np.random.default_rng(0))
    net = teacher.FlowNet((32, 64)).eval()
    given = torch.randn(batch.images.shape), torch.tensor([0.3, 0.8]), batch.images, batch.masks
    seen = []
    for block in net.unet.down_blocks:
        block.resnets[-1].register_forward_hook(lambda module, inputs, output: seen.append(output))
    net(*given)
    maps = net.maps(*given)
    assert [level.shape for level in maps] == [(2, 32, 32, 32), (2, 64, 16, 16)]
    assert torch.equal(maps[0], seen[0])  # no attention follows there
    assert not torch.equal(maps[1], seen[1])
    assert torch.equal(seen[1], seen[3])  # the same on the same way


def test_another_noise_makes_another_face(store):
    batch = store.draw(2, np.random.default_rng(0))
    net = teacher.FlowNet(TINY).eval()
    first, second = (
        teacher.draw(
            net, torch.randn(batch.images.shape, generator=torch.Generator().manual_seed(n)), batch.images, batch.masks
        )
        for n in range(2)
    )
    assert (first - second).abs().mean() > 0.05


def test_a_stopped_training_resumes_to_the_same_weights_bit_for_bit(store, tmp_path, monkeypatch):
    options = {"steps": 4, "seed": 0, "batch_size": 2, "channels": TINY}
    whole = teacher.fit_teacher(store, work=tmp_path / "whole", **options)
    step = teacher.train_step

    def stop_after_two(learner, *args, **settings):
        if learner.step == 2:
            raise KeyboardInterrupt
        monkeypatch.setattr(loop, "SAVE_EVERY_SECONDS", 0.0)
        return step(learner, *args, **settings)

    monkeypatch.setattr(teacher, "train_step", stop_after_two)
    with pytest.raises(KeyboardInterrupt):
        teacher.fit_teacher(store, work=tmp_path / "parts", **options)
    begun = []

    def look(learner, *args, **settings):
        begun.append(learner.step)
        return step(learner, *args, **settings)

    monkeypatch.setattr(teacher, "train_step", look)
    parts = teacher.fit_teacher(store, work=tmp_path / "parts", **options)
    assert begun == [2, 3]
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), parts.parameters(), strict=True))
    assert (tmp_path / "parts" / teacher.PREVIEW).exists()


def test_the_state_of_another_training_is_not_gone_on_from(store, tmp_path, caplog):
    options = {"seed": 0, "batch_size": 2, "channels": TINY, "work": tmp_path}
    teacher.fit_teacher(store, steps=1, **options)
    anew = teacher.fit_teacher(store, steps=2, **options)
    assert "begun anew" in caplog.text
    alone = teacher.fit_teacher(store, steps=2, **{**options, "work": tmp_path / "alone"})
    assert all(torch.equal(a, b) for a, b in zip(anew.parameters(), alone.parameters(), strict=True))
