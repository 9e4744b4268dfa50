"""The part of an experiment about rankers."""
