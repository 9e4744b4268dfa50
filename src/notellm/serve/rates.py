"""A limit on the rate of each of many clients, kept in token buckets."""

import time

#: Clients whose rate is remembered; beyond it the one that asked longest ago is forgotten.
_REMEMBERED = 10_000


class TokenBuckets:
    """One token bucket for each client.

    Args:
        rate: tokens that a bucket gains per second.
        size: tokens that a bucket holds at most, which is also what a new client starts with.
    """

    def __init__(self, rate: float, size: float) -> None:
        self._rate = rate
        self._size = size
        self._buckets: dict[
            bytes, tuple[float, float]
        ] = {}  # tokens, and the time at which they were counted

    def __len__(self) -> int:
        return len(self._buckets)

    def wait(self, client: bytes) -> float:
        """Return the seconds until a client has a token; 0 if it has one now."""
        return max(0.0, 1 - self._tokens(client, time.monotonic())) / self._rate

    def take(self, client: bytes) -> float:
        """Take a token of a client and return 0, or return the seconds until it has one."""
        now = time.monotonic()
        tokens = self._tokens(client, now)
        self._buckets.pop(client, None)  # so that the dictionary stays in the order of the last request
        if len(self._buckets) >= _REMEMBERED:
            del self._buckets[next(iter(self._buckets))]
        self._buckets[client] = (tokens if tokens < 1 else tokens - 1, now)
        return max(0.0, 1 - tokens) / self._rate

    def _tokens(self, client: bytes, now: float) -> float:
        tokens, counted_at = self._buckets.get(client, (self._size, now))
        return min(self._size, tokens + (now - counted_at) * self._rate)
