"""How long the events of a log are kept. This module imports nothing heavy, since options read it."""

from datetime import timedelta

#: How long events are kept unless told otherwise.
MAX_AGE = timedelta(days=90)
#: The most days that may be asked for: a moment so long ago can still be named.
MOST_DAYS = 36_500
