"""An error says what, where, what was given, what is allowed and what to do."""

import pytest

from anony_pipeline import errors


def test_the_message_has_every_part_that_is_known_in_order():
    error = errors.DatasetError("a row is short", where="a.txt:3", got="2", allowed="10", do="mend it")
    assert str(error).split("\n") == [
        "a row is short",
        "  where:   a.txt:3",
        "  got:     2",
        "  allowed: 10",
        "  do:      mend it",
    ]
    assert (error.what, error.where, error.do) == ("a row is short", "a.txt:3", "mend it")


def test_parts_that_are_not_known_are_left_out_and_falsy_values_are_not():
    assert str(errors.MediaError("no", got=0)) == "no\n  got:     0"


@pytest.mark.parametrize(("problems", "head"), [(["a"], "x has 1 problem:"), (["a", "b"], "x has 2 problems:")])
def test_problems_are_listed_under_a_head(problems, head):
    assert str(errors.ConfigError.of_problems("x", problems)).split("\n") == [head, *(f"  {p}" for p in problems)]


def test_every_kind_can_be_caught_as_one():
    kinds = [errors.ConfigError, errors.DatasetError, errors.WeightsError, errors.MediaError]
    assert all(
        issubclass(kind, errors.AnonyPipelineError) for kind in [*kinds, errors.CheckpointError, errors.PrivacyError]
    )
