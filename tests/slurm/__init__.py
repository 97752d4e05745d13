"""Arrays of a real Slurm on the loopback interface."""
