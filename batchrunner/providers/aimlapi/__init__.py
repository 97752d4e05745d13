"""The service's HTTP API: `wire` reads its replies (pure), `client` makes the calls."""
