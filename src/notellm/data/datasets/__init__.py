"""Readers of public datasets, in the files that their publishers distribute."""
