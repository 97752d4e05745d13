"""The composition root and the commands: what a run is built from and how the command line starts it."""
