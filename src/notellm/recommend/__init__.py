"""Recommendations: what recall offers for a history, ranked."""
