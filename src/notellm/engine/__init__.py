"""Everything at once and alive: what a service asks."""
