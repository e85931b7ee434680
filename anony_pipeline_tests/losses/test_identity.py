import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from anony_pipeline.losses.identity import (
    TEMPLATE_112,
    crop_faces,
    identity_hinge,
    impostor_margin,
    theta_from_boxes,
    theta_from_landmarks,
)


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
    thetas = theta_from_boxes(torch.tensor([[5.0, 5, 25, 35], [20, 0, 50, 30]]), (40, 60))
    embeddings = F.normalize(network(crop_faces(images, thetas, 32)))
    other = F.normalize(network(crop_faces(images.detach().flip(0), thetas, 32)))
    identity_hinge(embeddings, other, margin=-1.0).backward()
    assert images.grad.abs().sum() > 0
    assert images.grad[0, :, :, 40:].abs().sum() == 0  # far from the first face's box


def test_a_box_crop_equals_the_slice_that_it_covers():
    images = torch.rand(1, 3, 40, 60)
    thetas = theta_from_boxes(torch.tensor([[12.0, 6, 28, 22]]), (40, 60))
    assert torch.allclose(crop_faces(images, thetas, 16), images[:, :, 6:22, 12:28], atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(
    angle=st.floats(-1, 1),
    scale=st.floats(0.3, 2),
    shift_x=st.floats(-20, 20),
    shift_y=st.floats(-20, 20),
)
def test_landmarks_of_a_moved_template_give_back_the_movement(angle, scale, shift_x, shift_y):
    rotation = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]) * scale
    landmarks = np.array(TEMPLATE_112) @ rotation.T + (60 + shift_x, 50 + shift_y)
    theta = theta_from_landmarks(torch.tensor(landmarks[None], dtype=torch.float32), (160, 200))[0].double().numpy()
    unit_points = np.array(TEMPLATE_112) / 56 - 1
    mapped = (unit_points @ theta[:, :2].T + theta[:, 2] + 1) * (100, 80)
    assert np.abs(mapped - landmarks).max() < 1e-2


def test_landmark_crops_agree_with_opencv():
    cv2 = pytest.importorskip("cv2")
    rng = np.random.default_rng(0)
    image = cv2.GaussianBlur(rng.random((120, 140, 3)).astype(np.float32), (0, 0), 3)
    landmarks = np.array(TEMPLATE_112, np.float32) * 0.7 + (20, 15) + rng.normal(0, 2, (5, 2)).astype(np.float32)
    theta = theta_from_landmarks(torch.from_numpy(landmarks[None]), (120, 140))
    ours = crop_faces(torch.from_numpy(image).permute(2, 0, 1)[None], theta, 112)[0].permute(1, 2, 0).numpy()
    # An independent least-squares fit of (a, b, x, y) over the same five points.
    x, y = np.array(TEMPLATE_112).T
    rows = np.concatenate([np.stack([x, -y, x * 0 + 1, x * 0], 1), np.stack([y, x, x * 0, x * 0 + 1], 1)])
    a, b, shift_x, shift_y = np.linalg.lstsq(rows, np.concatenate([landmarks[:, 0], landmarks[:, 1]]), rcond=None)[0]
    matrix = np.array([[a, -b, shift_x], [b, a, shift_y]])
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
