"""When to poll which generation, and how long generations take."""
