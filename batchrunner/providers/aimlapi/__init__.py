"""The service's HTTP API: `responses` reads its replies (pure), `client` makes the calls."""
