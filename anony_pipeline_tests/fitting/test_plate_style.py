import numpy as np
import pytest
import torch

from anony_pipeline.errors import WeightsError
from anony_pipeline.fitting import plate_style
from anony_pipeline.fitting.loop import Plan
from anony_pipeline.models.plate_style import PlateStyleNet, StyleClassifier, load_style_classifier
from anony_pipeline.models.weights import save_half
from anony_pipeline.plates.styles import NEUTRAL, load_styles

KEYS = ("FR", "NL", "SG", "US_NY", NEUTRAL)


def render(each, seed):
    styles = {key: load_styles()[key] for key in KEYS}
    return plate_style.render_styled(styles, each, seed=seed, progress=lambda steps, _: iter(steps))


def test_plates_are_rendered_alike_for_every_style_but_the_neutral_one():
    plates = render(2, 3)
    assert plates.styles == KEYS[:-1]
    assert np.bincount(plates.labels).tolist() == [2, 2, 2, 2]
    assert plates.images.shape == (8, *plate_style.STORED_HW, 3)
    np.testing.assert_array_equal(plates.images, render(2, 3).images)
    assert (plates.images != render(2, 4).images).any()


@pytest.mark.slow
def test_a_few_steps_tell_a_yellow_plate_from_a_black_one(tmp_path):
    plan = Plan(40, 0, torch.device("cpu"), tmp_path / "state", progress=lambda steps, _: iter(steps))
    classifier = plate_style.fit_plate_style(render(10, 0), plan, batch=24)
    unseen = render(4, 1)
    confident = StyleClassifier(classifier.network, classifier.styles)
    crops = list(unseen.images)
    best = [guess.style for guess in confident.choose(crops, among=["NL", "SG"])]
    wanted = [unseen.styles[label] for label in unseen.labels]
    told = [b == w for b, w in zip(best, wanted, strict=True) if w in ("NL", "SG")]
    assert np.mean(told) >= 0.7
    assert set(best) <= {"NL", "SG", NEUTRAL}
    assert 0 <= plate_style.accuracy(classifier, unseen) <= 1


def classifier():
    torch.manual_seed(0)
    return StyleClassifier(PlateStyleNet(3), ["FR", "NL", "DE"])


def test_only_configured_styles_are_chosen_and_doubt_is_neutral():
    crops = [np.random.default_rng(n).integers(0, 255, (20 + n, 70, 3), np.uint8) for n in range(4)]
    assert {guess.style for guess in classifier().choose(crops)} == {NEUTRAL}
    one = classifier().choose(crops, among=["NL"])
    assert {(guess.style, guess.confidence) for guess in one} == {("NL", 1.0)}
    assert {guess.confidence for guess in classifier().choose(crops, among=["JP"])} == {0.0}
    assert classifier().choose([]) == []


def test_a_classifier_is_read_back(tmp_path):
    written = classifier()
    written.write(tmp_path / "styles.safetensors")
    read = load_style_classifier(tmp_path / "styles.safetensors")
    assert read.styles == written.styles
    crop = np.random.default_rng(0).integers(0, 255, (30, 90, 3), np.uint8)
    assert read.choose([crop]) == written.choose([crop])


def test_other_weights_are_no_classifier(tmp_path):
    save_half(tmp_path / "other.safetensors", torch.nn.Linear(2, 2))
    with pytest.raises(WeightsError, match="no classifier of plate styles"):
        load_style_classifier(tmp_path / "other.safetensors")
