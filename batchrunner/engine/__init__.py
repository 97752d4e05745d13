"""The loop that submits, polls and downloads jobs, with its queue, limits and circuit breakers."""
