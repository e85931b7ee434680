"""Tests of `anony_pipeline.datasets`."""
