import cv2
import numpy as np
import torch

from anony_pipeline.fitting import augmentation
from anony_pipeline.models.recognizer import align, alignment
from anony_pipeline.structures.regions import Kind, Region


def test_warping_on_the_device_is_what_aligning_by_opencv_gives():
    rng = np.random.default_rng(0)
    image = cv2.GaussianBlur(rng.integers(0, 256, (128, 128, 3), dtype=np.uint8), (0, 0), 3)
    region = Region(Kind.FACE, (20, 15, 105, 110))
    matrix = torch.from_numpy(alignment(region)).float()[None]
    warped = augmentation.warp(augmentation.to_pixels(torch.from_numpy(image)[None]), matrix, (112, 112))
    expected = align(image, region).astype(np.float32) / 127.5 - 1
    assert np.abs(warped[0].permute(1, 2, 0).numpy() - expected).max() < 3 / 127.5


def test_jitter_of_nothing_changes_nothing():
    randomness = torch.Generator().manual_seed(0)
    matrices = torch.tensor([[[2.0, 0.1, 3], [0.2, 1.5, -4]]])
    same = augmentation.jitter(matrices, (64, 192), randomness, scale=0, turn=0, shift=0)
    torch.testing.assert_close(same, matrices)


def test_every_change_keeps_the_range_and_repeats_with_its_seed():
    pixels = torch.rand(8, 3, 32, 48) * 2 - 1
    for change in (
        augmentation.light,
        lambda p, r: augmentation.coarsen(p, r, 0.3)[0],
        lambda p, r: augmentation.add_noise(p, r)[0],
        lambda p, r: augmentation.cover(p, r, 1.0),
    ):
        first = change(pixels, torch.Generator().manual_seed(5))
        assert first.shape == pixels.shape
        assert first.abs().max() <= 1
        assert not torch.equal(first, pixels)
        assert torch.equal(first, change(pixels, torch.Generator().manual_seed(5)))


def test_coarsening_says_how_much_resolution_is_left():
    pixels = torch.rand(8, 3, 32, 32) * 2 - 1
    coarse, share = augmentation.coarsen(pixels, torch.Generator().manual_seed(1), 0.2)
    assert share[0] == 1
    assert torch.equal(coarse[0], pixels[0])
    assert (share[2:] < 1).all()
    assert coarse[-1].std() < pixels[-1].std()


def test_coarsening_is_what_interpolation_there_and_back_gives():
    pixels = torch.rand(6, 3, 40, 60, generator=torch.Generator().manual_seed(2)) * 2 - 1
    coarse, shares = augmentation.coarsen(pixels, torch.Generator().manual_seed(3), 0.1, groups=6)
    assert len(set(shares.tolist())) == 6
    for image, one, share in zip(pixels, coarse, shares.tolist(), strict=True):
        small = [max(4, round(edge * share)) for edge in (40, 60)]
        shrunk = torch.nn.functional.interpolate(image[None], small, mode="bilinear", antialias=True)
        expected = torch.nn.functional.interpolate(shrunk, (40, 60), mode="bicubic").clamp(-1, 1)[0]
        torch.testing.assert_close(one, expected, atol=1e-4, rtol=1e-4)


def test_stretching_takes_all_of_an_image_to_all_of_a_crop():
    pixels = torch.rand(2, 3, 30, 40) * 2 - 1
    stretched = augmentation.warp(pixels, augmentation.stretch(2, (30, 40), (60, 120), pixels.device), (60, 120))
    expected = torch.nn.functional.interpolate(pixels, (60, 120), mode="bilinear")
    torch.testing.assert_close(stretched, expected, atol=1e-4, rtol=1e-4)
