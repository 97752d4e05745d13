"""Durable records of a batch, in SQLite."""
