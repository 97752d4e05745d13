"""Clips that the sandbox makes."""
