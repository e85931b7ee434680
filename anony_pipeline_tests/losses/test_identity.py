import math

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from anony_pipeline.losses.identity import crop_faces, identity_hinge, impostor_margin


def square(left, top, edge, image_hw=(40, 60)):
    """The transform that cuts a square out of an image."""
    height, width = image_hw
    x, y = (left + edge / 2) * 2 / width - 1, (top + edge / 2) * 2 / height - 1
    return torch.tensor([[edge / width, 0, x], [0, edge / height, y]])


def unit(*angles):
    return torch.tensor([[math.cos(a), math.sin(a)] for a in angles])


def test_the_hinge_is_cosine_minus_margin_above_the_margin_and_zero_below():
    originals = unit(0, 0)
    assert identity_hinge(unit(0, 0), originals, margin=0.3).item() == pytest.approx(0.7)
    assert identity_hinge(unit(1.5, 1.6), originals, margin=0.3).item() == 0


def test_below_the_margin_there_is_no_gradient():
    raw = torch.tensor([[0.1, 1.0]], requires_grad=True)
    identity_hinge(F.normalize(raw), unit(0), margin=0.3).backward()
    assert raw.grad.abs().sum() == 0


def test_the_gradient_of_the_hinge_reaches_the_image():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 5, stride=4), nn.Flatten(), nn.Linear(4 * 7 * 7, 8)).requires_grad_(False)
    images = (torch.rand(2, 3, 40, 60) * 2 - 1).requires_grad_(True)
    thetas = torch.stack([square(5, 5, 30), square(20, 0, 30)])
    embeddings = F.normalize(network(crop_faces(images, thetas, 32)))
    other = F.normalize(network(crop_faces(images.detach().flip(0), thetas, 32)))
    identity_hinge(embeddings, other, margin=-1.0).backward()
    assert images.grad.abs().sum() > 0
    assert images.grad[0, :, :, 40:].abs().sum() == 0  # far from the first face's box


def test_a_box_crop_equals_the_slice_that_it_covers():
    images = torch.rand(1, 3, 40, 60)
    thetas = square(12, 6, 16)[None]
    assert torch.allclose(crop_faces(images, thetas, 16), images[:, :, 6:22, 12:28], atol=1e-5)


def test_turned_crops_agree_with_opencv():
    rng = np.random.default_rng(0)
    image = cv2.GaussianBlur(rng.random((120, 140, 3)).astype(np.float32), (0, 0), 3)
    a, b, shift_x, shift_y = 0.68, 0.11, 22.0, 9.0
    # From the crop's pixels to the image's, counted from corners; then in units of [-1, 1].
    matrix = np.array([[a, -b, shift_x], [b, a, shift_y]])
    unit_of_image = np.diag([2 / 140, 2 / 120])
    linear = unit_of_image @ matrix[:, :2] * 56
    shift = unit_of_image @ (matrix[:, :2] @ (56, 56) + matrix[:, 2]) - 1
    theta = torch.from_numpy(np.column_stack([linear, shift])).float()[None]
    ours = crop_faces(torch.from_numpy(image).permute(2, 0, 1)[None], theta, 112)[0].permute(1, 2, 0).numpy()
    # OpenCV puts a pixel's center at whole numbers.
    matrix[:, 2] += matrix[:, :2] @ (0.5, 0.5) - 0.5
    theirs = cv2.warpAffine(image, matrix, (112, 112), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    assert np.abs(ours - theirs)[5:-5, 5:-5].max() < 0.02


def test_the_margin_is_the_quantile_over_pairs_of_different_people():
    embeddings = F.normalize(torch.randn(30, 8, generator=torch.Generator().manual_seed(1)))
    identities = torch.arange(30) // 3
    cosines = [
        float(embeddings[i] @ embeddings[j]) for i in range(30) for j in range(i) if identities[i] != identities[j]
    ]
    assert impostor_margin(embeddings, identities) == pytest.approx(np.quantile(cosines, 0.95), abs=1e-5)


def test_one_person_alone_has_margin_zero():
    assert impostor_margin(unit(0, 1), torch.tensor([4, 4])) == 0
