import os
from pathlib import Path

import numpy as np
import pytest
import torch

from anony_pipeline.errors import WeightsError
from anony_pipeline.models import detector, weights
from anony_pipeline.ops import images
from anony_pipeline.structures.regions import Kind

FACE, PLATE = 1, 2


def target(*regions):
    """``(label, x_min, y_min, x_max, y_max, iscrowd)`` rows."""
    rows = torch.tensor(regions, dtype=torch.float32).reshape(-1, 6)
    return {"boxes": rows[:, 1:5], "labels": rows[:, 0].long(), "iscrowd": rows[:, 5].bool()}


@pytest.fixture(params=["fcos", "retinanet"])
def network(request):
    torch.manual_seed(0)
    return detector.build_detector(request.param)


def logit_gradient(network, image, targets, not_exhaustive):
    """The gradient of the classification loss with respect to all class logits, ``(places, 2)``."""
    kept = {}
    hook = network.model.head.register_forward_hook(lambda _m, _i, out: kept.update(out))
    losses = network([image], [targets], [not_exhaustive])
    hook.remove()
    return torch.autograd.grad(losses["classification"], kept["cls_logits"])[0][0]


def test_the_losses_of_each_image_are_those_of_the_image_alone(network):
    images_01 = [torch.rand(3, 96, 96) for _ in range(3)]
    targets = [target((FACE, 20, 20, 50, 55, 0)), target((FACE, 2, 2, 90, 90, 0), (PLATE, 30, 30, 70, 45, 0)), target()]
    unlabeled = [(), {PLATE}, ()]
    together = network.losses_of_each(images_01, targets, unlabeled)
    for losses, image, wanted, ids in zip(together, images_01, targets, unlabeled, strict=True):
        alone = network([image], [wanted], [ids])
        assert losses.keys() == alone.keys()
        for name, value in alone.items():
            assert losses[name].item() == pytest.approx(value.item(), rel=1e-4, abs=1e-6)


def test_an_unlabeled_kind_gets_no_gradient_at_all(network):
    gradient = logit_gradient(network, torch.rand(3, 96, 96), target((FACE, 20, 20, 50, 55, 0)), {PLATE})
    assert gradient[:, 1].abs().max() == 0
    assert (gradient[:, 0] != 0).all() or (gradient[:, 0] != 0).float().mean() > 0.9


def test_a_labeled_kind_without_instances_is_negative_everywhere(network):
    gradient = logit_gradient(network, torch.rand(3, 96, 96), target((FACE, 20, 20, 50, 55, 0)), ())
    assert (gradient[:, 1] >= 0).all()
    assert (gradient[:, 1] > 0).float().mean() > 0.9


def test_a_labeled_instance_of_an_unlabeled_kind_is_still_positive(network):
    gradient = logit_gradient(network, torch.rand(3, 96, 96), target((PLATE, 20, 30, 70, 45, 0)), {PLATE})
    assert (gradient[:, 1] < 0).any()
    assert not (gradient[:, 1] > 0).any()


def test_inside_a_crowd_region_there_are_neither_positives_nor_negatives_of_its_kind(network):
    image = torch.rand(3, 96, 96)
    gradient = logit_gradient(network, image, target((FACE, 0, 0, 96, 96, 1)), ())
    centers_inside = gradient[:, 0] == 0
    assert centers_inside.float().mean() > 0.95
    assert (gradient[:, 1] > 0).float().mean() > 0.9


def test_a_face_in_a_crowd_region_is_still_positive(network):
    gradient = logit_gradient(
        network, torch.rand(3, 96, 96), target((FACE, 0, 0, 96, 96, 1), (FACE, 20, 20, 50, 55, 0)), ()
    )
    assert (gradient[:, 0] < 0).any()
    assert not (gradient[:, 0] > 0).any()


def test_without_masks_fcos_has_torchvisions_own_loss():
    from torchvision.models.detection.fcos import FCOSHead

    torch.manual_seed(0)
    network = detector.build_detector("fcos")
    pixels = [torch.rand(3, 96, 128)]
    truth = [target((FACE, 20, 20, 50, 55, 0), (PLATE, 60, 60, 110, 75, 0))]
    ours = network(pixels, truth)
    network.model.head.__class__ = FCOSHead
    theirs = network(pixels, truth)
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=1e-4, atol=1e-5)


def test_an_image_without_regions_has_a_finite_loss(network):
    losses = network([torch.rand(3, 64, 64)], [target()], [()])
    assert all(torch.isfinite(value) for value in losses.values())


def test_a_box_without_area_does_not_break_the_loss(network):
    losses = network([torch.rand(3, 64, 64)], [target((FACE, 10, 10, 10, 30, 0))], [()])
    assert all(torch.isfinite(value) for value in losses.values())


def test_whether_losses_or_detections_come_depends_on_targets_alone(network):
    image = [torch.rand(3, 64, 64)]
    for mode in (True, False):
        network.train(mode)
        assert isinstance(network(image, [target()]), dict)
        assert isinstance(network(image), list)


def test_a_few_steps_teach_it_to_find_a_bright_square(network):
    torch.manual_seed(1)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    image = torch.full((3, 64, 64), 0.1)
    image[:, 14:46, 20:48] = 0.9
    for _ in range(40):
        loss = sum(network([image], [target((FACE, 20, 14, 48, 46, 0))]).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    (regions,) = detector.detect(network, images.to_images(image[None], "0..1"), threshold=0.05)
    assert regions
    assert regions[0].kind == Kind.FACE
    assert np.abs(np.array(regions[0].box_xyxy) - (20, 14, 48, 46)).max() < 8


def test_images_of_varied_sizes_are_found_in_as_alone(network):
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, size, dtype=np.uint8) for size in [(64, 96, 3), (64, 96, 3), (100, 70, 3)]]
    together = detector.detect(network, pictures, threshold=0.0)
    for picture, regions in zip(pictures, together, strict=True):
        (alone,) = detector.detect(network, [picture], threshold=0.0)
        assert len(alone) == len(regions)
        for one, other in zip(alone[:5], regions[:5], strict=True):
            np.testing.assert_allclose(one.box_xyxy, other.box_xyxy, atol=0.05)


def test_regions_stay_in_the_image_and_above_the_threshold(network):
    (regions,) = detector.detect(network, [np.zeros((50, 70, 3), np.uint8)], threshold=0.0)
    for region in regions:
        x_min, y_min, x_max, y_max = region.box_xyxy
        assert 0 <= x_min < x_max <= 70
        assert 0 <= y_min < y_max <= 50
    (none,) = detector.detect(network, [np.zeros((50, 70, 3), np.uint8)], threshold=1.0)
    assert none == []


def test_the_tiles_of_a_large_image_cover_it_with_overlap():
    image = np.zeros((1900, 3000, 3), np.uint8)
    whole, *tiles = detector._views(image)
    covered = np.zeros(image.shape[:2], int)
    for tile, (left, top, right, bottom) in tiles:
        assert tile.shape[:2] == (bottom - top, right - left)
        covered[top:bottom, left:right] += 1
    assert covered.min() == 1
    assert whole[1] == (0, 0, 3000, 1900)
    assert all(view.shape[0] * view.shape[1] <= detector.PIXELS_AT_ONCE for view, _ in (whole, *tiles))


class WhitePixels(torch.nn.Module):
    """Finds white pixels, as a box from the first to the last."""

    def __init__(self):
        super().__init__()
        self.anchor = torch.nn.Parameter(torch.zeros(1))

    def forward(self, pixels):
        rows = []
        for image in pixels:
            y, x = torch.nonzero(image[0] > 0.5, as_tuple=True)
            box = [[x.min(), y.min(), x.max() + 1, y.max() + 1]] if len(x) else []
            rows.append(
                {
                    "boxes": torch.tensor(box, dtype=torch.float32).reshape(-1, 4),
                    "scores": torch.full((len(box),), 0.9),
                    "labels": torch.full((len(box),), FACE),
                }
            )
        return rows


def test_what_several_views_find_is_moved_to_the_image_and_merged():
    image = np.zeros((1500, 2400, 3), np.uint8)
    image[1000:1120, 1300:1400] = 255
    (regions,) = detector.detect(WhitePixels(), [image])
    assert len(regions) == 1
    np.testing.assert_allclose(regions[0].box_xyxy, (1300, 1000, 1400, 1120), atol=3)


@pytest.mark.parametrize("size_wh", [(4000, 3000), (3840, 2160), (6016, 4016), (2592, 1944), (8192, 5460)])
@pytest.mark.parametrize("corner", ["top left", "bottom right"])
def test_a_face_larger_than_a_tile_is_found_at_the_edge_of_a_photograph(size_wh, corner):
    # Shrunk to whole pixels a photograph loses a fraction of one, which must not pass for an edge inside of it.
    width, height = size_wh
    edge = 1200
    left, top = (0, 0) if corner == "top left" else (width - edge, height - edge)
    image = np.zeros((height, width, 3), np.uint8)
    image[top : top + edge, left : left + edge] = 255
    (regions,) = detector.detect(WhitePixels(), [image])
    np.testing.assert_allclose([region.box_xyxy for region in regions], [(left, top, left + edge, top + edge)], atol=4)


def test_boxes_keep_their_precision_under_autocast(network):
    kept = {}
    network.model.head.register_forward_hook(lambda _m, _i, out: kept.update(out))
    with torch.autocast("cpu", torch.bfloat16):
        network([torch.rand(3, 64, 64)])
    assert all(value.dtype == torch.float32 for value in kept.values())


def test_weights_survive_saving_and_loading(network, tmp_path):
    weights.round_to_half(network)
    weights.save_half(tmp_path / "detector.safetensors", network)
    loaded = detector.load_detector(tmp_path / "detector.safetensors", network.architecture)
    pixels = [torch.rand(3, 64, 64)]
    torch.testing.assert_close(loaded(pixels)[0]["scores"], network(pixels)[0]["scores"])
    assert loaded.judge.library.startswith("torchvision ")
    other = "retinanet" if network.architecture == "fcos" else "fcos"
    with pytest.raises(WeightsError, match="another architecture"):
        detector.load_detector(tmp_path / "detector.safetensors", other)


def test_both_detectors_stay_small(network):
    assert sum(p.numel() for p in network.parameters()) <= 1_200_000


def test_a_file_that_is_no_yunet_is_refused(tmp_path):
    (tmp_path / "y.onnx").write_bytes(b"nothing")
    with pytest.raises(WeightsError, match="can't read the file as a YuNet"):
        detector.YuNet(tmp_path / "y.onnx")


@pytest.mark.skipif("ANONY_REAL_DATA" not in os.environ, reason="set ANONY_REAL_DATA to the folder of real images")
def test_yunet_finds_photographed_faces_with_their_landmarks():
    root = Path(os.environ["ANONY_REAL_DATA"])
    yunet = detector.YuNet(next((root / "models").glob("*yunet*.onnx")))
    picture = images.read(next(iter(sorted((root / "faces_id").rglob("*.jpg")))))
    ((face, *_),) = detector.detect(yunet, [picture], threshold=0.5)
    assert face.kind == Kind.FACE
    left_eye, right_eye, nose, *_ = face.landmarks
    assert left_eye[0] < nose[0] < right_eye[0]
    assert face.box_xyxy[0] < nose[0] < face.box_xyxy[2]


def test_the_backbones_maps_see_pixels_as_the_detector_does(network):
    image = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    seen = []
    handle = network.model.backbone.stem.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    network(list(image))
    maps = network.maps(image * 2 - 1)
    handle.remove()
    assert torch.allclose(seen[0], seen[1], atol=1e-6)
    assert [tuple(one.shape[2:]) for one in maps] == [(32, 48), (16, 24), (8, 12), (4, 6), (2, 3)]
