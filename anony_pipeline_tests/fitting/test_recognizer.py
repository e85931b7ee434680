import math

import numpy as np
import torch
import torch.nn.functional as F

from anony_pipeline.fitting.recognizer import ArcMargin, verification


def test_the_margin_is_added_to_the_angle_of_the_right_person():
    torch.manual_seed(0)
    head = ArcMargin(5)
    embeddings, labels = torch.randn(3, 512), torch.tensor([0, 3, 4])
    angles = torch.arccos(F.normalize(embeddings) @ F.normalize(head.weight).T)
    for row, label in enumerate(labels):
        angles[row, label] += 0.4
    expected = F.cross_entropy(torch.cos(angles) * head.scale, labels)
    torch.testing.assert_close(head(embeddings, labels, 0.4), expected, rtol=1e-4, atol=1e-4)


def test_the_scale_grows_with_the_number_of_people_up_to_the_papers():
    assert ArcMargin(10).scale < ArcMargin(1000).scale <= 64
    assert math.isclose(ArcMargin(100).scale, 3 * math.sqrt(2) * math.log(99))


def test_people_far_apart_are_all_told_apart_and_noise_is_not():
    people = np.repeat(np.arange(40), 4)
    centers = F.normalize(torch.randn(40, 64, generator=torch.Generator().manual_seed(0)))
    perfect = verification(centers[people], people)
    assert perfect == {"rank1": 1.0, "tar_at_far_1e3": 1.0}
    noise = F.normalize(torch.randn(160, 64, generator=torch.Generator().manual_seed(1)))
    chance = verification(noise, people)
    assert chance["rank1"] < 0.1
    assert chance["tar_at_far_1e3"] < 0.05
