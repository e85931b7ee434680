import torch

from anony_pipeline.config.schema import Config
from anony_pipeline.models.features import FeatureNet
from anony_pipeline.training import networks
from anony_pipeline_tests.training import tiny


def critics(tmp_path, **changes):
    return networks.load_critics(tiny.make_config(tmp_path, **changes), torch.device("cpu"))


def test_the_network_that_judges_kid_is_in_no_loss(tmp_path):
    found = vars(critics(tmp_path))
    assert all(critic is not None for critic in found.values())
    assert not any(isinstance(module, FeatureNet) for critic in found.values() for module in critic.modules())


def test_all_critics_are_frozen(tmp_path):
    assert not any(p.requires_grad for critic in vars(critics(tmp_path)).values() for p in critic.parameters())


def test_a_critic_whose_losses_have_no_weight_is_not_loaded(tmp_path):
    names = ("perceptual", "detection", "id_suppress", "reading", "read_suppress")
    off = {f"loss__{name}_weight": 0.0 for name in names}
    assert all(critic is None for critic in vars(critics(tmp_path, **off)).values())
    seen = critics(tmp_path, **{**off, "loss__perceptual_weight": 0.1})
    assert seen.detector is not None
    assert seen.recognizer is seen.reader is None


def test_the_defaults_ask_for_every_critic():
    loss = Config.model_validate(
        {"name": "x", "data": {"sources": [{"name": "a", "layout": "widerface", "root": "a", "exhaustive": ["face"]}]}}
    ).loss
    assert min(loss.perceptual_weight, loss.detection_weight, loss.id_suppress_weight, loss.reading_weight) > 0
