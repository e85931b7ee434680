import numpy as np
import pytest
import torch

from anony_pipeline.fitting import crop_store, likeness
from anony_pipeline.models.recognizer import alignment
from anony_pipeline.structures.regions import Kind, Region


class ByColor(torch.nn.Module):
    """A recognizer that tells colors alone."""

    def forward(self, crops):
        return crops.mean(dim=(2, 3))


def test_likeness_is_what_the_recognizer_finds_in_twins_and_their_original():
    """Same color, same person."""
    colors = torch.tensor([[1.0, -1, -1], [-1, 1, -1], [-1, -1, 1], [1, 1, -1]])

    def punished(original, first, second):
        pictures = [colors[i].view(1, 3, 1, 1).expand(1, 3, 64, 64) for i in (original, first, second)]
        box = torch.tensor([[16.0, 16, 48, 48]])
        batch = crop_store.Batch(
            Kind.FACE, torch.cat([pictures[0]] * 2), torch.ones(2, 1, 64, 64), box.repeat(2, 1), None, 1
        )
        outputs = torch.cat(pictures[1:])
        return likeness.to_strangers(outputs, batch, ByColor(), torch.Generator().manual_seed(0)).item()

    # One pair of three alike costs a third of 1 - STRANGERS; different colors have cosines of -1/3 and below.
    one_pair = (1 - likeness.STRANGERS) / 3
    assert punished(0, 1, 2) == 0
    assert punished(0, 1, 1) == pytest.approx(one_pair, abs=1e-4)
    assert punished(0, 0, 1) == pytest.approx(one_pair, abs=1e-4)
    assert punished(0, 0, 0) == pytest.approx(3 * one_pair, abs=1e-4)


def test_who_follows_is_compared_with_the_face_that_it_follows_in_the_boxes_alone():
    colors = torch.tensor([[1.0, -1, -1], [-1, 1, -1], [0.2, 0.4, -0.6]])
    boxes = torch.tensor([[20.0, 18, 44, 46]]).repeat(3, 1)
    followed = colors[:, :, None, None].expand(3, 3, 64, 64).clone()

    def off(outputs):
        return likeness.to_followed(outputs, followed, boxes, ByColor(), torch.Generator().manual_seed(0))

    assert off(followed).item() == pytest.approx(0, abs=1e-5)
    rim = followed.clone()
    rim[..., :8], rim[..., -8:] = 1, 1  # beyond what any crop reaches
    assert off(rim).item() == pytest.approx(0, abs=1e-5)
    others = followed[[1, 2, 0]].requires_grad_(True)
    unit = colors / colors.norm(dim=1, keepdim=True)
    expected = 1 - (unit * unit[[1, 2, 0]]).sum(dim=1).mean()
    loss = off(others)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-4)
    (gradient,) = torch.autograd.grad(loss, others)
    assert off((others - gradient * 50).detach()) < loss


def test_faces_are_cut_by_the_box_as_the_judge_cuts_them():
    boxes = torch.tensor([[20.3, 11.0, 60.8, 50.2], [5.0, 2.0, 25.0, 60.0]])
    expected = np.stack([alignment(Region(Kind.FACE, tuple(box))) for box in boxes.tolist()])
    np.testing.assert_allclose(likeness.by_box(boxes).numpy(), expected, rtol=1e-5, atol=1e-4)
