import itertools
import math

import pytest
import torch

from anony_pipeline.losses.reading import MAX_PROBABILITY, read_suppression, reading_loss


def collapsed(path):
    return [label for label, _ in itertools.groupby(path) if label != 0]


def probability_by_enumeration(log_probs, serial):
    """Sum over all paths of one sequence: the definition of CTC, equation 3 of the paper."""
    steps, classes = log_probs.shape
    return sum(
        math.exp(sum(float(log_probs[t, c]) for t, c in enumerate(path)))
        for path in itertools.product(range(classes), repeat=steps)
        if collapsed(path) == list(serial)
    )


@pytest.fixture
def log_probs():
    torch.manual_seed(0)
    return torch.randn(5, 2, 4).log_softmax(dim=2)


def test_reading_loss_equals_the_sum_over_all_paths(log_probs):
    serials = [[1, 2], [3, 3]]
    expected = [-math.log(probability_by_enumeration(log_probs[:, n], serial)) / 2 for n, serial in enumerate(serials)]
    assert reading_loss(log_probs, serials).item() == pytest.approx(sum(expected) / 2, rel=1e-5)


def test_suppression_equals_its_formula(log_probs):
    serials = [[1, 2], [3]]
    expected = [-math.log(1 - probability_by_enumeration(log_probs[:, n], serial)) for n, serial in enumerate(serials)]
    assert read_suppression(log_probs, serials).item() == pytest.approx(sum(expected) / 2, rel=1e-4)


def certain(*labels):
    logits = torch.full((len(labels), 1, 4), -200.0)
    for step, label in enumerate(labels):
        logits[step, 0, label] = 0
    return logits.requires_grad_(True)


def test_suppression_is_bounded_even_where_the_original_is_read_for_certain():
    logits = certain(1, 0, 2)
    loss = read_suppression(logits.log_softmax(2), [[1, 2]])
    loss.backward()
    assert loss.item() == pytest.approx(-math.log(1 - MAX_PROBABILITY), rel=1e-2)
    assert torch.isfinite(logits.grad).all()


def test_suppression_asks_for_nothing_where_the_original_is_not_read():
    logits = certain(3, 0, 3)
    loss = read_suppression(logits.log_softmax(2), [[1, 2]])
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert logits.grad.abs().max() < 1e-6


def test_a_serial_that_does_not_fit_counts_nothing_and_breaks_nothing():
    logits = torch.randn(3, 1, 4, requires_grad=True)
    # Two equal classes need a blank between them: 4 steps.
    for loss in (
        reading_loss(logits.log_softmax(2), [[1, 1, 2]]),
        read_suppression(logits.log_softmax(2), [[1, 1, 2]]),
    ):
        loss.backward()
        assert loss.item() == 0
    assert torch.isfinite(logits.grad).all()


def test_the_gradient_makes_the_intended_serial_more_likely():
    logits = torch.zeros(6, 1, 4, requires_grad=True)
    before = reading_loss(logits.log_softmax(2), [[2, 1]])
    before.backward()
    after = reading_loss((logits - logits.grad).log_softmax(2), [[2, 1]])
    assert after < before
