import numpy as np
import pytest

from anony_pipeline.evaluation import plate_reading


def test_case_and_separators_do_not_count():
    assert plate_reading.exact(["ab123cd", "AB124CD"], ["AB-123-CD", "AB-123-CD"]).tolist() == [True, False]


@pytest.mark.parametrize(
    ("text", "leaks"),
    [
        ("AB-123-CD", True),
        ("AB123C", True),
        ("A8123CD", True),
        ("D AB-123-CD 24", True),
        ("A8128CD", False),
        ("", False),
    ],
    ids=["exact", "one missing", "one other", "within more", "two others", "nothing read"],
)
def test_one_character_off_is_still_a_leak(text, leaks):
    assert plate_reading.leaks([text], ["AB-123-CD"]).tolist() == [leaks]


def test_character_errors_are_the_edit_distance_over_the_length():
    errors = plate_reading.character_errors(["AB123CD", "AB129CD", "", "XXXXXXXXXXXXXXXXX"], ["AB-123-CD"] * 4)
    assert np.allclose(errors, [0, 1 / 7, 1, 1])


def test_a_serial_among_the_candidates_is_a_leak():
    candidates = [("XX999YY", "AB123CD"), ("XX999YY", "AB123XX"), ()]
    assert plate_reading.leaks_among(candidates, ["AB-123-CD"] * 3).tolist() == [True, False, False]
