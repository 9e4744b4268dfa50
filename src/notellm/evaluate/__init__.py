"""Figures of quality with intervals, baselines to compare them with, and tables of results."""
