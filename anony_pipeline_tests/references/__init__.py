"""Slow, obvious re-implementations that the tests compare with."""
