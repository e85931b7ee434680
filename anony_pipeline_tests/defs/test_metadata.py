"""Metadata: numbers under stable names, small pictures, no long tables."""

import base64
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from anony_pipeline import project
from anony_pipeline.config import loading
from anony_pipeline.datasets import loaders
from anony_pipeline.defs import metadata
from anony_pipeline.defs.assets import evaluation
from anony_pipeline.evaluation.schema import METRICS, Row, figure, null
from anony_pipeline.ops import images
from anony_pipeline.targets.report import TargetReport
from anony_pipeline.targets.store import TargetRecord


@dataclasses.dataclass
class Inner:
    faces: int


@dataclasses.dataclass
class Report:
    images: int
    share: float
    note: str
    by_kind: Inner
    bad: float = float("nan")
    flag: bool = True


def test_numbers_come_under_their_names_and_nothing_else_does():
    assert metadata.numbers(Report(3, 0.5, "x", Inner(2))) == {"images": 3, "share": 0.5, "by_kind/faces": 2}


def test_a_noisy_picture_is_shrunk_until_it_fits():
    noise = np.random.default_rng(0).integers(0, 256, (1500, 1500, 3), dtype=np.uint8)
    text = metadata.picture(noise, "noise").value
    head, data = text.split("base64,")
    assert head == "![noise](data:image/jpeg;"
    assert len(data) <= metadata.PICTURE_BYTES + 1
    shown = images.decode(base64.b64decode(data[:-1]))
    assert shown.shape[0] == shown.shape[1] > 200


def test_a_sheet_shows_every_picture_in_its_cell():
    colors = [np.full((10, 20, 3), value, np.uint8) for value in (10, 20, 30)]
    page = images.sheet(colors, cell_hw=(8, 16), columns=2)
    assert [page[4, 8, 0], page[4, 26, 0], page[14, 8, 0], page[14, 26, 0]] == [10, 20, 30, 255]


def test_a_long_table_is_cut():
    table = metadata.table([{"row": i, "none": None} for i in range(200)])
    assert len(table.value.records) == metadata.TABLE_ROWS


def test_rows_may_lack_columns():
    records = metadata.table([{"a": 1}, {"b": 2}]).value.records
    assert [record.data for record in records] == [{"a": 1, "b": ""}, {"a": "", "b": 2}]
    assert metadata.table([]).value == "no rows"


def test_a_figure_that_is_null_shows_its_reason():
    row = Row(
        method="anonymizer",
        boxes="detected",
        panel="held_out",
        slice="overall",
        figures={"fid": figure("fid", 3.5), "kid": null("kid", "too few")},
    )
    assert metadata.of_row(row, ["fid", "kid", "coverage"]) == {
        "fid": 3.5,
        "kid/reason": "too few",
        "coverage/reason": "not in the scorecard",
    }
    assert metadata.of_row(None, ["fid"]) == {"fid/reason": "not in the scorecard"}


def test_the_columns_of_a_record_are_its_fields_with_the_meanings_of_its_docstring():
    columns = {column.name: column for column in metadata.columns_of(TargetRecord).columns}
    assert list(columns) == [field.name for field in dataclasses.fields(TargetRecord)]
    assert columns["serial"].type == "str | None"
    assert columns["anchor_file"].description.startswith("PNG of the rendered serial in place")
    assert all(column.description for column in columns.values())


def test_the_scorecards_columns_say_what_is_better():
    columns = {column.name: column.description for column in metadata.scorecard_columns().columns}
    assert set(columns) == set(METRICS)
    assert columns["coverage"] == "share of regions covered by half or more; higher is better"


@pytest.fixture
def under_demo(house):
    """The house's own unified set under the demo's sources and its streetscape; returns how to read it."""

    def read(source="pp4av", root=house.folder / "raw" / "pp4av"):
        for split in ("train", "val"):
            file = house.folder / "unified" / f"unified_{split}.json"
            content = json.loads(file.read_text())
            for image in content["images"]:
                image.pop("source") if source is None else image.update(source=source)
            file.write_text(json.dumps(content))
        folders = [f"paths.{name}={house.folder / name}" for name in ("outputs", "unified", "private")]
        config = loading.load([project.find("configs/demo.yaml")], folders)
        sources = [source.model_copy(update={"root": str(root)}) for source in config.data.sources]
        config = config.model_copy(update={"data": config.data.model_copy(update={"sources": tuple(sources)})})
        return config, {split: loaders.open_split(config, split) for split in ("train", "val")}

    return read


def shown(config, splits):
    """All that could hold pictures, from one experiment."""
    pixels = np.zeros((8, 8, 3), np.uint8)
    report = TargetReport("faces", "self", examples=[(pixels, pixels)])
    images.write(Path(config.paths.outputs) / "report" / "before_and_after.jpg", np.zeros((8, 8, 3), np.uint8))
    found = metadata.of_unified(splits, config) | metadata.of_targets(report, config, splits["train"])
    return {"labeled images", "original and target", "before and after"} & {*found, *evaluation._examples(config)}


def test_pictures_that_this_program_drew_are_shown(under_demo):
    assert shown(*under_demo()) == {"labeled images", "original and target", "before and after"}


@pytest.mark.parametrize("source", [None, "mine"])
def test_no_picture_of_ones_own_set_is_shown_under_the_demos_layer(under_demo, source):
    assert shown(*under_demo(source)) == set()


def test_no_picture_is_shown_of_images_that_only_bear_the_name_of_a_drawn_source(under_demo, tmp_path):
    assert shown(*under_demo(root=tmp_path / "drawn")) == set()


def test_one_image_that_was_not_drawn_is_enough_to_show_none(under_demo):
    config, splits = under_demo()
    splits["val"].images[1]["source"] = "mine"
    assert "labeled images" not in metadata.of_unified(splits, config)
