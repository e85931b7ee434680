"""Pseudo-targets: what an anonymized region could look like, made by classical means; the generator learns from it."""
