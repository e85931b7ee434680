"""The scorecard's format is frozen: whoever reads it elsewhere validates it by the file that is shipped."""

import copy
import json
from pathlib import Path

import jsonschema
import pytest

from anony_pipeline.evaluation import schema
from anony_pipeline.evaluation.schema import Scorecard
from anony_pipeline_tests.evaluation.test_comparison import card

FILE = Path(schema.__file__).with_name("scorecard_2.schema.json")


def structure(part):
    """A schema without its words."""
    if isinstance(part, list):
        return [structure(item) for item in part]
    if not isinstance(part, dict):
        return part
    return {
        key: structure(value)
        for key, value in part.items()
        if not (key in ("description", "title", "$schema", "$id") and isinstance(value, str))
    }


@pytest.fixture(scope="module")
def shipped():
    return json.loads(FILE.read_text())


def test_the_format_is_the_shipped_one(shipped):
    assert shipped["$id"] == schema.FORMAT
    assert structure(shipped) == structure(Scorecard.model_json_schema(mode="serialization")), (
        "another format needs another version: docs/architecture.md, who may change what"
    )


def test_a_scorecard_is_valid_and_one_with_more_or_other_is_not(shipped):
    validator = jsonschema.Draft202012Validator(shipped)
    content = json.loads(card().model_dump_json())
    assert not list(validator.iter_errors(content))
    for change in (
        lambda c: c.update(format="anony_pipeline.scorecard/3"),
        lambda c: c.update(more=1),
        lambda c: c["rows"][0].update(panel="first"),
        lambda c: next(iter(c["rows"][0]["figures"].values())).update(interval=[0.0]),
        lambda c: c.pop("judges"),
    ):
        changed = copy.deepcopy(content)
        change(changed)
        assert list(validator.iter_errors(changed))


def test_a_metric_more_breaks_no_reader(shipped):
    content = json.loads(card().model_dump_json())
    content["rows"][0]["figures"]["made_up"] = content["rows"][0]["figures"]["reid_rank1"]
    assert not list(jsonschema.Draft202012Validator(shipped).iter_errors(content))
    assert "made_up" in Scorecard.model_validate(content).rows[0].figures
