"""Recommendations for a user: candidates from recall, ordered by a ranker."""
