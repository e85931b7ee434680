"""Readers of the two sources, the unified set that is made of them, and the procedural streetscape."""
