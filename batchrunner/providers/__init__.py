"""Generation services behind one protocol."""
