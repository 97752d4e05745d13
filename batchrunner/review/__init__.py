"""Verdicts: which clips people, quality checks and hooks accept or reject. A page to give them."""
