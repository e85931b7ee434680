import numpy as np
import pytest
import torch
from torchmetrics.image.fid import NoTrainInceptionV3
from transformers import BitImageProcessor, Dinov2Config, Dinov2Model

from anony_pipeline.errors import WeightsError
from anony_pipeline.models import features, weights


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    torch.manual_seed(0)
    weights.save_half(tmp_path / "features.safetensors", features.FeatureNet(17))
    monkeypatch.setattr(weights, "shipped", lambda name: tmp_path / name)


def test_crops_of_any_size_become_features_of_one_length(shipped):
    rng = np.random.default_rng(0)
    crops = [rng.integers(0, 256, size, dtype=np.uint8) for size in [(20, 60, 3), (128, 128, 3), (300, 200, 3)]]
    extractor = features.load_features("shipped")
    found = extractor.extract(crops)
    assert found.shape == (3, features.FEATURES)
    assert found.dtype == np.float32
    np.testing.assert_allclose(extractor.extract(crops[1:2])[0], found[1], atol=1e-5)
    assert extractor.extract([]).shape == (0, features.FEATURES)


def test_the_network_is_small_and_its_maps_halve():
    network = features.FeatureNet(30)
    assert sum(p.numel() for p in network.parameters()) <= 1_000_000
    maps = network.maps(torch.zeros(1, 3, 96, 96))
    assert [one.shape[-1] for one in maps] == [48, 24, 12, 6]
    assert sum(one.shape[1] for one in maps) == features.FEATURES


def test_missing_inception_weights_name_their_file_and_sum(tmp_path):
    with pytest.raises(WeightsError, match=r"inception[\s\S]*6726825d0af5f729"):
        features.load_features("inception", weights_dir=tmp_path)


class Planted:
    """Unpickling it writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("content", ["no weights", "another network", "a planted call"])
def test_a_file_that_is_no_inception_is_refused_and_never_unpickled(tmp_path, content):
    file = tmp_path / "inception.pth"
    if content == "no weights":
        file.write_bytes(b"\x08 what an ONNX file begins with")
    else:
        torch.save({"fc.weight": torch.zeros(2)} if content == "another network" else Planted(tmp_path / "hit"), file)
    with pytest.raises(WeightsError, match="no weights of Inception"):
        features.load_features(str(file))
    assert not (tmp_path / "hit").exists()


@pytest.mark.slow
def test_inception_gives_what_torchmetrics_own_network_gives(tmp_path, monkeypatch):
    """Of the real architecture with random weights in torch-fidelity's format."""
    file = tmp_path / "inception.pth"
    with monkeypatch.context() as patched:
        patched.setattr(torch, "load", lambda *_, **__: {})
        patched.setattr(torch.nn.Module, "load_state_dict", lambda *_, **__: None)
        torch.manual_seed(0)
        own = NoTrainInceptionV3("inception-v3-compat", ["2048"], str(file)).eval()
    torch.save(own.state_dict(), file)
    extractor = features.load_features(str(file))
    crop = np.random.default_rng(0).integers(0, 256, (299, 299, 3), dtype=np.uint8)
    with torch.no_grad():
        expected = own(torch.from_numpy(crop).permute(2, 0, 1)[None])
    found = extractor.extract([crop, crop[:90, :60]])
    assert found.shape == (2, 2048)
    np.testing.assert_allclose(found[0], expected[0].numpy(), rtol=1e-3, atol=1e-5)
    assert extractor.judge.library.startswith("torch-fidelity ")


@pytest.fixture(scope="module")
def dino(tmp_path_factory):
    """A random DINOv2 of transformers, tiny, in its own format."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 14, "image_size": 224}
    network = Dinov2Model(Dinov2Config(**sizes)).eval()
    folder = tmp_path_factory.mktemp("weights") / "dino"
    network.save_pretrained(folder)
    return folder, network


def test_dinov2_gives_the_class_token_that_its_own_processor_leads_to(dino):
    folder, network = dino
    extractor = features.load_features(str(folder))
    crop = np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8)
    processor = BitImageProcessor(
        do_resize=False, do_center_crop=False, image_mean=(0.485, 0.456, 0.406), image_std=(0.229, 0.224, 0.225)
    )
    with torch.no_grad():
        expected = network(**processor(crop, return_tensors="pt")).last_hidden_state[:, 0]
    np.testing.assert_allclose(extractor.extract([crop]), expected.numpy(), atol=1e-5)
    assert extractor.extract([crop[:50, :20], crop]).shape == (2, 24)
    assert extractor.extract([]).shape == (0, 24)
    assert (extractor.judge.name, extractor.judge.weights, len(extractor.judge.sha256)) == ("dinov2", "dino", 64)


def test_a_folder_with_another_model_is_refused(dino, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    (tmp_path / "model.safetensors").write_bytes((dino[0] / "model.safetensors").read_bytes())
    with pytest.raises(WeightsError, match="no DINOv2"):
        features.load_features(str(tmp_path))
