"""The part of an experiment about related notes, and the topics and categories that models write."""
