import pickle

import pytest
import torch
import torchvision
from torchmetrics.functional.image.lpips import _LPIPS

from anony_pipeline.config.schema import Lpips as Settings
from anony_pipeline.errors import WeightsError
from anony_pipeline.losses.perceptual import perceptual_distance
from anony_pipeline.models.lpips import BACKBONES, load_lpips
from anony_pipeline.storage import manifests


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Both files in their published formats, with random weights: SqueezeNet, which is small."""
    root = tmp_path_factory.mktemp("lpips")
    torch.manual_seed(0)
    torch.save(torchvision.models.squeezenet1_1(weights=None).state_dict(), root / "squeezenet1_1.pth")
    fitted = {
        f"lin{number}.model.1.weight": torch.rand(1, count, 1, 1)
        for number, count in enumerate(BACKBONES["squeeze"].channels)
    }
    torch.save(fitted, root / "squeeze.pth")
    return root


def settings(root, **changes):
    own = {"network": "squeeze", "backbone": str(root / "squeezenet1_1.pth"), "fitted": str(root / "squeeze.pth")}
    return Settings.model_validate(own | changes)


def torchmetrics_own(root, fitted):
    """The same distance by another implementation, on the same files."""
    theirs = _LPIPS(net="squeeze", pnet_rand=True, model_path=None if fitted is None else str(fitted))
    state = torch.load(root / "squeezenet1_1.pth", weights_only=True)
    for own in theirs.net.slices.state_dict():
        theirs.net.slices.state_dict()[own].copy_(state["features." + own.split(".", 1)[1]])
    return theirs


@pytest.mark.parametrize("own_file", [True, False], ids=["given", "torchmetrics' copy"])
def test_it_is_lpips_as_torchmetrics_computes_it(files, own_file):
    changes = {} if own_file else {"fitted": None}
    network = load_lpips(settings(files, **changes), weights_dir=files)
    theirs = torchmetrics_own(files, fitted=files / "squeeze.pth" if own_file else None)
    first, second = torch.rand(2, 2, 3, 64, 96) * 2 - 1
    ours = perceptual_distance(network.maps, first, second, list(network.fitted))
    assert ours.item() > 0
    assert ours.item() == pytest.approx(theirs(first, second).mean().item(), rel=1e-4)


def test_equal_images_are_at_distance_zero_and_the_gradient_is_finite_there(files):
    network = load_lpips(settings(files), weights_dir=files)
    image = torch.zeros(1, 3, 48, 48, requires_grad=True)
    distance = perceptual_distance(network.maps, image, image.detach(), list(network.fitted))
    distance.backward()
    assert distance.item() == 0
    assert torch.isfinite(image.grad).all()


def test_it_is_frozen_and_the_gradient_reaches_the_image(files):
    network = load_lpips(settings(files), weights_dir=files)
    assert not any(parameter.requires_grad for parameter in network.parameters())
    image = torch.rand(1, 3, 48, 48, requires_grad=True)
    perceptual_distance(network.maps, image, torch.rand(1, 3, 48, 48), list(network.fitted)).backward()
    assert image.grad.abs().sum() > 0


def test_a_file_without_a_folder_lies_among_the_weights(files):
    network = load_lpips(settings(files, backbone="squeezenet1_1.pth", fitted="squeeze.pth"), weights_dir=files)
    assert len(network.maps(torch.zeros(1, 3, 32, 32))) == 7


def test_every_network_has_its_channels():
    for name, backbone in BACKBONES.items():
        with torch.device("meta"):
            features = backbone.make(weights=None).features
        seen, found = torch.zeros(1, 3, 64, 64, device="meta"), []
        for place, layer in enumerate(features):
            seen = layer(seen)
            if place in backbone.taps:
                found.append(seen.shape[1])
        assert tuple(found) == backbone.channels, name


def test_a_missing_file_is_named_with_all_places(files):
    with pytest.raises(WeightsError, match=r"(?s)not on this machine.*vgg16-397923af\.pth"):
        load_lpips(settings(files, backbone="vgg16-397923af.pth"), weights_dir=files)


@pytest.mark.parametrize("which", ["backbone", "fitted"])
def test_another_sha256_is_refused_and_the_right_one_taken(files, which):
    good = manifests.sha256_of(files / {"backbone": "squeezenet1_1.pth", "fitted": "squeeze.pth"}[which])
    load_lpips(settings(files, **{f"{which}_sha256": good}), weights_dir=files)
    with pytest.raises(WeightsError, match="another sha256"):
        load_lpips(settings(files, **{f"{which}_sha256": "0" * 64}), weights_dir=files)


class Evil:
    def __reduce__(self):
        return (open, ("evil", "w"))


def test_a_pickle_that_runs_code_is_refused_and_not_run(files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "backbone.pth"
    torch.save({"features.0.weight": Evil()}, path)
    with pytest.raises(WeightsError, match="something else than a state dict"):
        load_lpips(settings(files, backbone=str(path)), weights_dir=files)
    path.write_bytes(pickle.dumps({"features.0.weight": Evil()}))
    with pytest.raises(WeightsError, match="something else than a state dict"):
        load_lpips(settings(files, backbone=str(path)), weights_dir=files)
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("content", [b"", b"<html>404</html>", b"PK\x03\x04cut"])
def test_a_damaged_file_is_refused(files, tmp_path, content):
    path = tmp_path / "backbone.pth"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="something else than a state dict"):
        load_lpips(settings(files, backbone=str(path)), weights_dir=files)


def test_files_of_another_network_are_refused(files):
    with pytest.raises(WeightsError, match=r"(?s)backbone's weights are another network's.*alexnet"):
        load_lpips(settings(files, network="alex"), weights_dir=files)
    with pytest.raises(WeightsError, match=r"(?s)fitted weights are another network's.*64, 128, 256, 384"):
        load_lpips(settings(files, fitted=str(files / "squeezenet1_1.pth")), weights_dir=files)
