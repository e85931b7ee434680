import numpy as np

from anony_pipeline.fitting.attributes import AttributeCode

FACES = [
    {"age": 20.0, "beard": "none", "glasses": True, "person_name": "a", "identity_score": 1.0},
    {"age": 40.0, "beard": "full", "glasses": False, "person_name": "b", "identity_score": 2.0},
    {"age": 60.0, "beard": "none", "glasses": False, "person_name": "c", "identity_score": 3.0},
]


def test_numbers_are_standardized_and_words_become_columns_of_their_own():
    code = AttributeCode.of(FACES)
    assert code.columns == ("age", "beard=full", "beard=none", "glasses")
    table = code.encode(FACES)
    np.testing.assert_allclose(table.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(table.std(axis=0), 1, atol=1e-6)


def test_nothing_that_says_who_somebody_is_becomes_a_column():
    assert not any("name" in column or "identity" in column for column in AttributeCode.of(FACES).columns)


def test_other_faces_are_encoded_by_the_same_columns():
    table = AttributeCode.of(FACES).encode([{"beard": "goatee", "glasses": True}])
    assert table.shape == (1, 4)
    assert np.isnan(table[0, 0])
    assert not np.isnan(table[0, 1:]).any()
