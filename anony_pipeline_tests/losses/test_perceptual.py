import numpy as np
import pytest
import torch
from torch import nn

from anony_pipeline.losses.perceptual import feature_distance, perceptual_distance


@pytest.fixture
def features():
    torch.manual_seed(0)
    network = nn.Conv2d(3, 5, 3).requires_grad_(False)
    return lambda images: [network(images), network(images[..., ::2, ::2])]


def test_equal_images_are_at_distance_zero(features):
    images = torch.rand(2, 3, 16, 16)
    assert perceptual_distance(features, images, images).item() == pytest.approx(0, abs=1e-7)


def test_it_equals_equation_1_of_the_paper_written_as_loops(features):
    first, second = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8)
    layers = []
    for one, other in zip(features(first), features(second), strict=True):
        a, b = one.numpy(), other.numpy()
        values = []
        for n in range(a.shape[0]):
            for y in range(a.shape[2]):
                for x in range(a.shape[3]):
                    u, v = a[n, :, y, x], b[n, :, y, x]
                    values.append(((u / np.linalg.norm(u) - v / np.linalg.norm(v)) ** 2).sum())
        layers.append(np.mean(values))
    assert perceptual_distance(features, first, second).item() == pytest.approx(np.mean(layers), rel=1e-4)


def test_the_gradient_reaches_the_output_but_neither_target_nor_network(features):
    outputs = torch.rand(1, 3, 8, 8, requires_grad=True)
    targets = torch.rand(1, 3, 8, 8, requires_grad=True)
    perceptual_distance(features, outputs, targets).backward()
    assert outputs.grad.abs().sum() > 0
    assert targets.grad is None


def test_the_scale_of_features_does_not_count():
    maps = [torch.rand(1, 4, 3, 3)]
    assert feature_distance(maps, [maps[0] * 7]).item() == pytest.approx(0, abs=1e-6)
