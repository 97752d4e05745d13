"""Where the work on finished clips runs: threads, processes, Dask, Slurm. It never submits, polls or pays."""
