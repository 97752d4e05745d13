"""Data sets: clips of finished batches, split, exported in a format that training tools load."""
