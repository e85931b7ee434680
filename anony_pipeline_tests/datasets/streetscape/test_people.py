import json

import numpy as np
import pytest

from anony_pipeline.datasets.streetscape import people


def crop(seed=0, chance=0, size=64, family="base"):
    return people.render_face_crop(people.sample_person(seed), np.random.default_rng(chance), size, family=family)


@pytest.mark.parametrize("family", ["base", "demo"])
@pytest.mark.parametrize("size", [64, 112])
def test_a_crop_has_the_size_that_was_asked_for(size, family):
    one = crop(size=size, family=family)
    assert one.image.shape == (size, size, 3)
    assert one.image.dtype == np.uint8
    assert one.landmarks.shape == (5, 2)


def test_the_same_person_and_chance_give_the_same_crop():
    np.testing.assert_array_equal(crop().image, crop().image)


def test_another_chance_is_another_photograph_of_the_same_person():
    first, second = crop(chance=1), crop(chance=2)
    assert (first.image != second.image).any()
    names = ("skin_tone", "age", "hair_style", "hair_color", "eye_color", "beard")
    assert [first.attributes[n] for n in names] == [second.attributes[n] for n in names]


@pytest.mark.parametrize("chance", range(12))
def test_boxes_lie_in_the_crop_and_attributes_are_json(chance):
    one = crop(seed=chance, chance=chance)
    x_min, y_min, x_max, y_max = one.box_xyxy
    assert 0 <= x_min < x_max <= 64
    assert 0 <= y_min < y_max <= 64
    assert 20 < y_max - y_min < 52
    assert json.loads(json.dumps(one.attributes)) == one.attributes
