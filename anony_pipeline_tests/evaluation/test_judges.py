import numpy as np
import pytest

from anony_pipeline.evaluation import judges
from anony_pipeline.evaluation.judges import LoadedDetector
from anony_pipeline.models import detector as detectors


@pytest.fixture(scope="module")
def network():
    return detectors.load_shipped_detector(held_out=True)


def scene(seed):
    """Rectangles on noise, in which the detector finds many things with low scores."""
    rng = np.random.default_rng(seed)
    image = rng.integers(60, 200, (96, 128, 3)).astype(np.uint8)
    for _ in range(6):
        x, y = rng.integers(0, 90), rng.integers(0, 60)
        image[y : y + 30, x : x + 24] = rng.integers(0, 256, 3)
    return image


@pytest.fixture
def looked(monkeypatch):
    """How many images detectors really looked at."""
    counts = []
    find = judges.find
    monkeypatch.setattr(
        judges, "find", lambda net, images, least: counts.append(len(images)) or find(net, images, least)
    )
    return counts


def test_kept_pixels_are_not_looked_at_again_and_what_was_found_is_the_same_to_the_bit(network, looked):
    detector = LoadedDetector(network)
    originals = [scene(0), scene(1)]
    expected = [judges.find(network, [image], judges.LOWEST_SCORE)[0] for image in originals]
    assert all(expected)
    looked.clear()
    assert detector.find(originals, keep=True) == expected
    copies = [image.copy() for image in reversed(originals)]
    assert detector.find(copies) == expected[::-1]
    assert looked == [2]


def test_one_changed_pixel_is_another_image(network, looked):
    detector = LoadedDetector(network)
    detector.find([scene(0)], keep=True)
    changed = scene(0)
    changed[0, 0, 0] ^= 1
    detector.find([changed])
    turned = scene(0).reshape(128, 96, 3)  # the same bytes in another shape
    detector.find([turned])
    assert looked == [1, 1, 1]


def test_what_is_not_to_be_kept_is_not_kept(network, looked):
    detector = LoadedDetector(network)
    detector.find([scene(2)])
    detector.find([scene(2)])
    assert looked == [1, 1]
