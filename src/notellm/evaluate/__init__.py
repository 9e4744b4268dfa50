"""Metrics with intervals, baselines, and tables of results."""
