"""Durable files, the run directory, disk space, batching."""
