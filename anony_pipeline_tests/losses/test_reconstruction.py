import pytest
import torch

from anony_pipeline.losses.reconstruction import gradient_l1, masked_l1


def test_masked_l1_is_the_mean_over_masked_pixels_only():
    outputs, targets = torch.zeros(1, 3, 4, 4), torch.ones(1, 3, 4, 4)
    masks = torch.zeros(1, 1, 4, 4)
    masks[..., :2, :] = 1
    targets[..., 2:, :] = 100
    assert masked_l1(outputs, targets, masks).item() == pytest.approx(1.0)


def test_an_empty_mask_costs_nothing():
    assert masked_l1(torch.rand(2, 3, 4, 4), torch.rand(2, 3, 4, 4), torch.zeros(2, 1, 4, 4)).item() == 0


def test_gradient_l1_ignores_an_offset_and_sees_a_lost_edge():
    edge = torch.zeros(1, 3, 6, 6)
    edge[..., 3:] = 1
    masks = torch.ones(1, 1, 6, 6)
    assert gradient_l1(edge + 0.3, edge, masks).item() == pytest.approx(0, abs=1e-6)
    assert gradient_l1(torch.zeros_like(edge), edge, masks).item() == pytest.approx(1 / 5)


def test_what_lies_outside_the_mask_gets_no_gradient():
    outputs = torch.rand(1, 3, 6, 6, requires_grad=True)
    masks = torch.zeros(1, 1, 6, 6)
    masks[..., 2:4, 2:4] = 1
    (masked_l1(outputs, torch.zeros(1, 3, 6, 6), masks)).backward()
    assert (outputs.grad * (1 - masks)).abs().sum() == 0
    assert (outputs.grad * masks).abs().sum() > 0
