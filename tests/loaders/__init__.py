"""Data sets in the loaders of other projects."""
