import numpy as np
import pytest
import torch

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
    assert sum(p.numel() for p in network.parameters()) <= 400_000
    maps = network.maps(torch.zeros(1, 3, 96, 96))
    assert [one.shape[-1] for one in maps] == [48, 24, 12, 6]
    assert sum(one.shape[1] for one in maps) == features.FEATURES


def test_missing_inception_weights_name_their_file_and_sum(tmp_path):
    with pytest.raises(WeightsError, match=r"inception[\s\S]*6726825d0af5f729"):
        features.load_features("inception", weights_dir=tmp_path)
