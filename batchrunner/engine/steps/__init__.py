"""The steps of a job: each makes one call, stores what it learned, and returns what follows."""
