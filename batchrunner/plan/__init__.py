"""Plans: the actions and the cost of a run."""
