from types import SimpleNamespace

import numpy as np
import pytest

from anony_pipeline.anonymize.verifying import Verifier
from anony_pipeline.structures.regions import Kind, Region

ORIGINAL = np.zeros((60, 120, 3), np.uint8)
RESULT = ORIGINAL + 1
PLATE, FACE = Region(Kind.PLATE, (10, 10, 70, 25)), Region(Kind.FACE, (10, 10, 40, 45))


class Reads:
    """Reads texts in turn."""

    judge = SimpleNamespace(name="reader")

    def __init__(self, *texts):
        self.texts = list(texts)

    def read(self, crops):
        return [SimpleNamespace(text=self.texts.pop(0)) for _ in crops]


class Embeds:
    """Gives embeddings in turn."""

    judge, input_size = SimpleNamespace(name="recognizer"), 112

    def __init__(self, *vectors):
        self.vectors = [np.array(vector, np.float32) for vector in vectors]

    def embed(self, crops):
        return np.stack([self.vectors.pop(0) for _ in crops])


def verdict(region, *, recognizer=None, reader=None, result=RESULT):
    verifier = Verifier(recognizer, reader, max_similarity=0.4)
    known = verifier.originals([ORIGINAL], [region])
    (found,) = verifier.verdicts([ORIGINAL], [result], [region], known)
    return found


@pytest.mark.parametrize(
    ("before", "after", "accepted"),
    [
        ("AB123CD", "KX907LM", True),
        ("AB123CD", "AB123CD", False),
        ("AB123CD", "A8123CD", False),
        ("AB123CD", "DAB123CDX", False),  # whoever reads more has read it, too
        ("AB123CD", "EU AB128CD 24", False),
        ("AB123CD", "DA8128CDX", True),
        ("AB123CD", "", True),
    ],
)
def test_a_plate_is_let_out_if_the_reader_no_longer_finds_its_serial_in_it(before, after, accepted):
    found = verdict(PLATE, reader=Reads(before, after))
    assert (found.accepted, found.judge) == (accepted, "reader")


@pytest.mark.parametrize("before", ["", "A", "AB1"])
def test_what_was_hardly_read_before_counts_as_not_compared(before):
    found = verdict(PLATE, reader=Reads(before, "KX907LM"))
    assert found.accepted
    assert found.judge is None


def test_even_three_characters_must_not_come_again():
    assert not verdict(PLATE, reader=Reads("AB1", "AB1")).accepted


@pytest.mark.parametrize(("cosine", "accepted"), [(0.41, False), (0.39, True), (-1.0, True), (np.nan, False)])
def test_a_face_is_let_out_if_the_recognizer_says_that_it_is_another(cosine, accepted):
    found = verdict(FACE, recognizer=Embeds([1, 0], [cosine, 0]))
    assert found.accepted == accepted
    assert found.judge == "recognizer"
    assert accepted or found.reason


@pytest.mark.parametrize("region", [PLATE, FACE])
def test_nothing_is_let_out_without_a_judge_nor_the_original_itself(region):
    assert not verdict(region).accepted
    same = verdict(region, recognizer=Embeds([1, 0], [0, 1]), reader=Reads("AB123CD", "KX907LM"), result=ORIGINAL)
    assert same == (False, None, "the result is the original", None)
