"""The composition root and the commands: they build the objects of a run and connect them to the command line."""
