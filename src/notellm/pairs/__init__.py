"""Mine pairs of related notes from a click log."""
