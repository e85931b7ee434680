import pytest
import torch

from anony_pipeline.losses.detection import detection_consistency


def test_the_detectors_losses_are_summed_on_images_in_zero_to_one():
    seen = []

    def detector_loss(images, targets):
        seen.extend(images)
        return [
            {"class": image.mean(), "box": image.mean() * target["boxes"].sum()}
            for image, target in zip(images, targets, strict=True)
        ]

    images = torch.stack([torch.full((3, 4, 4), -1.0), torch.full((3, 4, 4), 1.0)]).requires_grad_(True)
    targets = [{"boxes": torch.tensor([[0.0, 0, 2, 2]]), "labels": torch.tensor([1])}] * 2
    loss = detection_consistency(detector_loss, images, targets)
    # Of the white image 1 and 1 * 4, of the black one 0.
    assert loss.item() == pytest.approx(2.5)
    assert seen[0].min() == 0
    assert seen[1].max() == 1
    loss.backward()
    assert images.grad.abs().sum() > 0
