"""Progress for people and programs: live screen, log lines, JSON lines."""
