"""What a finished clip shows: measures of its frames and sound, and marks for suspicious ones."""
