import pytest
import torch

from anony_pipeline.losses.adversarial import discriminator_loss, generator_loss, r1_penalty
from anony_pipeline.models.discriminator import PatchScores


def scores(*values, weights=None):
    logits = torch.tensor(values, dtype=torch.float32).view(1, 1, 1, -1)
    return PatchScores(logits, torch.ones_like(logits) if weights is None else torch.tensor(weights).view_as(logits))


def test_a_discriminator_that_knows_nothing_has_loss_two():
    assert discriminator_loss([scores(0.0)], [scores(0.0)]).item() == 2


def test_beyond_the_hinge_nothing_is_gained():
    assert discriminator_loss([scores(5.0)], [scores(-5.0)]).item() == 0
    assert discriminator_loss([scores(-1.0)], [scores(1.0)]).item() == 4


def test_patches_outside_the_mask_do_not_count():
    real, fake = scores(2.0, -9.0, weights=[1.0, 0.0]), scores(-2.0, 9.0, weights=[1.0, 0.0])
    assert discriminator_loss([real], [fake]).item() == 0
    assert generator_loss([fake]).item() == 2


def test_scales_are_averaged():
    assert generator_loss([scores(1.0), scores(3.0)]).item() == -2


def test_r1_is_the_squared_slope_of_a_linear_discriminator():
    slope = torch.tensor([1.0, -2.0, 0.5]).view(1, 3, 1, 1)
    images = torch.rand(2, 3, 4, 4, requires_grad=True)
    logits = (images * slope).sum(dim=1, keepdim=True)
    penalty = r1_penalty([PatchScores(logits, torch.ones_like(logits))], images)
    # The score of an image is the mean over its 16 patches.
    assert penalty.item() == pytest.approx(float((slope**2).sum()) / 16)


def test_a_gradient_of_the_penalty_can_be_taken():
    weight = torch.tensor(2.0, requires_grad=True)
    images = torch.rand(1, 3, 2, 2, requires_grad=True)
    logits = (images * weight).sum(dim=1, keepdim=True)
    r1_penalty([PatchScores(logits, torch.ones_like(logits))], images).backward()
    assert weight.grad > 0
