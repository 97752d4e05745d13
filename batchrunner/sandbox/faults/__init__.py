"""Faults that the sandbox injects, and the files that script them."""
