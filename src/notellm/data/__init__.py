"""Notes, clicks and impressions: the tables, reading and cleaning them, public datasets, the sample world."""
