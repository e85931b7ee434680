import pytest
import torch

from anony_pipeline.models.discriminator import Discriminator
from anony_pipeline.structures.regions import Kind


@pytest.fixture
def discriminator():
    torch.manual_seed(0)
    return Discriminator(channels=8)


@pytest.mark.parametrize(("kind", "size_hw"), [(Kind.FACE, (64, 64)), (Kind.PLATE, (64, 192))], ids=["face", "plate"])
def test_it_scores_patches_at_two_scales(discriminator, kind, size_hw):
    full, half = discriminator(torch.rand(2, 3, *size_hw), torch.ones(2, 1, *size_hw), kind)
    assert full.logits.shape == full.weights.shape == (2, 1, size_hw[0] // 8, size_hw[1] // 8)
    assert half.logits.shape == (2, 1, size_hw[0] // 16, size_hw[1] // 16)


def test_only_patches_that_touch_the_mask_have_weight(discriminator):
    masks = torch.zeros(1, 1, 64, 64)
    masks[..., 20:28, 33:40] = 1
    full, _ = discriminator(torch.rand(1, 3, 64, 64), masks, Kind.FACE)
    expected = torch.zeros(8, 8)
    expected[2:4, 4] = 1
    assert torch.equal(full.weights[0, 0], expected)


def test_the_kind_changes_the_score(discriminator):
    images, masks = torch.rand(1, 3, 64, 64), torch.ones(1, 1, 64, 64)
    discriminator.eval()
    assert not torch.equal(
        discriminator(images, masks, Kind.FACE)[0].logits, discriminator(images, masks, Kind.PLATE)[0].logits
    )


def test_its_slope_is_bounded_by_spectral_normalization(discriminator):
    for _ in range(30):  # power iterations
        discriminator(torch.rand(1, 3, 64, 64), torch.ones(1, 1, 64, 64), Kind.FACE)
    discriminator.eval()
    for name, module in discriminator.named_modules():
        if hasattr(module, "weight") and "parametrizations" not in name and module.weight.ndim == 4:
            largest = torch.linalg.matrix_norm(module.weight.flatten(1), ord=2)
            assert largest.item() == pytest.approx(1, abs=0.05)


def test_features_are_listed_for_each_layer_and_scale(discriminator):
    assert len(discriminator.features(torch.rand(1, 3, 64, 64), torch.ones(1, 1, 64, 64))) == 8
