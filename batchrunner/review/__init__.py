"""Verdicts: which clips people, quality checks and hooks accept or reject."""
