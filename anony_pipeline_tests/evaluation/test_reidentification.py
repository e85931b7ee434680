import numpy as np
import pytest

from anony_pipeline.evaluation import reidentification
from anony_pipeline.evaluation.observations import HALF_PRECISION
from anony_pipeline.evaluation.reidentification import Faces
from anony_pipeline_tests.references import identification


def unit(values):
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def people(count=20, views=4, noise=0.6, seed=0):
    rng = np.random.default_rng(seed)
    persons = np.repeat(np.arange(count), views)
    images = rng.permutation(len(persons)) // 3
    centers = rng.normal(size=(count, 16))
    return Faces(unit(centers[persons] + noise * rng.normal(size=(len(persons), 16))), persons, images), rng


def test_rank1_equals_the_reference():
    faces, rng = people(noise=1.2)
    probes = Faces(unit(faces.embeddings + 0.2 * rng.normal(size=faces.embeddings.shape)), faces.persons, faces.images)
    ranks = reidentification.rank(probes, faces)
    expected = identification.rank1(
        probes.embeddings, faces.persons, faces.images, faces.embeddings, faces.persons, faces.images
    )
    assert ranks.hits(1)[ranks.known].mean() == pytest.approx(expected)
    same = reidentification.rank(probes, faces, same_photograph=True)
    expected = identification.rank1(
        probes.embeddings,
        faces.persons,
        faces.images,
        faces.embeddings,
        faces.persons,
        faces.images,
        same_photograph=True,
    )
    assert same.hits(1).mean() == pytest.approx(expected)


@pytest.mark.parametrize("chunk", [7, 1024])
def test_tar_at_far_equals_the_reference_in_any_chunks(monkeypatch, chunk):
    monkeypatch.setattr(reidentification, "PAIRS_AT_ONCE", chunk)
    faces, rng = people()
    probes = Faces(unit(faces.embeddings + 0.3 * rng.normal(size=faces.embeddings.shape)), faces.persons, faces.images)
    threshold = reidentification.threshold_at_far(faces, 1e-2)
    accepted, pairs = reidentification.accepts(probes, faces, threshold)
    expected = identification.true_accept_rate(probes.embeddings, faces.persons, faces.images, faces.embeddings, 1e-2)
    assert (accepted[pairs > 0] / pairs[pairs > 0]).mean() == pytest.approx(expected, abs=1e-9)


def test_too_few_pairs_give_no_threshold():
    faces, _ = people(count=5, views=2)
    assert reidentification.threshold_at_far(faces, 1e-3) is None


def test_shuffled_identities_fall_to_chance():
    hits = []
    for seed in range(10):
        faces, rng = people(count=40, views=5, noise=0.3, seed=seed)
        shuffled = Faces(faces.embeddings, rng.permutation(faces.persons), faces.images)
        ranks = reidentification.rank(shuffled, faces)
        hits.append(ranks.hits(1)[ranks.known].mean())
    assert np.mean(hits) == pytest.approx(1 / 40, abs=0.02)


def test_a_judge_that_sees_nobody_guesses():
    faces, _ = people(count=25, views=4)
    blind = Faces(np.full_like(faces.embeddings, 0.25), faces.persons, faces.images)
    ranks = reidentification.rank(blind, blind)
    assert ranks.hits(1)[ranks.known].mean() == pytest.approx(1 / 25, rel=0.05)


def test_a_person_of_one_photograph_has_no_rank_among_others():
    faces, _ = people(count=3, views=1)
    alone = Faces(faces.embeddings, faces.persons, np.zeros(3, int))
    assert not reidentification.rank(alone, alone).known.any()


def test_one_mean_face_for_all_has_no_variety_and_different_faces_have_all():
    n = 30
    one = np.tile(unit(np.ones((1, 64))), (n, 1))
    mean, effective = reidentification.sameness(one)
    assert (mean, effective) == (pytest.approx(1, abs=1e-5), pytest.approx(1 / n, rel=1e-4))
    mean, effective = reidentification.sameness(np.eye(n, 64, dtype=np.float32))
    assert (mean, effective) == (pytest.approx(0, abs=1e-6), pytest.approx(1, rel=1e-4))


def test_half_precision_changes_no_cosine_by_more_than_it_says():
    rng = np.random.default_rng(0)
    first, second = unit(rng.normal(size=(500, 512))), unit(rng.normal(size=(500, 512)))
    second = unit(second + first * rng.uniform(0, 3, (500, 1)))
    kept = [vectors.astype(HALF_PRECISION).astype(np.float32) for vectors in (first, second)]
    exact = (first * second).sum(axis=1)
    assert np.abs(reidentification.cosine(*kept) - exact).max() < 5e-4
