"""Tables of jobs: CSV, TSV and JSON Lines."""
