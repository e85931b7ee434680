"""Which layers the UI, the sensor and the schedule use."""

import pytest

from anony_pipeline.defs import resources


@pytest.mark.parametrize(
    ("value", "layers"),
    [
        ("configs/demo.yaml", ["configs/demo.yaml"]),
        ("/a/base.yaml:b.yaml", ["/a/base.yaml", "b.yaml"]),
        ("s3://bucket/run.yaml", ["s3://bucket/run.yaml"]),
        (
            "base.yaml:s3://bucket/run.yaml:memory://x/y.yaml",
            ["base.yaml", "s3://bucket/run.yaml", "memory://x/y.yaml"],
        ),
    ],
)
def test_layers_are_joined_by_colons_and_urls_stay_whole(monkeypatch, value, layers):
    monkeypatch.setattr(resources.os, "pathsep", ":")
    monkeypatch.setenv("ANONY_CONFIG", value)
    assert resources.default_layers() == layers
