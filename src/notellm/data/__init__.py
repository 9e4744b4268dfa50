"""Notes, clicks and impressions: schemas, reading, cleaning, splits, and the sample world."""
