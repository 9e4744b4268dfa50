"""The limits of the service, which protect all other clients from one, and the default number of connections.

Most limits have a default that nobody needs to change; ``notellm serve`` has options for the others. Behind a
reverse proxy all connections come from the address of the proxy: set ``per_address`` to the value of
``connections`` there.
"""

import ipaddress
from dataclasses import dataclass, fields
from functools import lru_cache
from types import ModuleType

from notellm.errors import ConfigError

try:
    import resource as _resource
except ImportError:  # Windows has no such module
    resource: ModuleType | None = None
else:
    resource = _resource

#: The default never allows more connections than this, however many files may be open: each costs memory.
_MOST_CONNECTIONS = 4_096
#: At least this many file handles, or a quarter of all, are kept for store, index and log.
_KEPT = 128
_FEWEST_CONNECTIONS = 16


@dataclass(frozen=True)
class Limits:
    """The limits of the service, with the status of the answer beyond each.

    Attributes:
        body: the most bytes of a request's body; 413.
        together: the most requests that are worked on or wait at one time; 503. A request counts once its
            body has arrived.
        seconds: the most seconds of work on one request, once its body has arrived; 504.
        rate: requests per second of one key (without keys: of one address) in the long run, and as many at
            once; 429. None is no limit.
        connections: the most open connections; 503. None is what the process's limit of open files allows,
            less a quarter (at least 128) for the store, and at most 4,096.
        per_address: the most open connections of one address (of IPv6: of one /64 network); 429. None is half
            of ``connections``. Behind a reverse proxy all connections come from one address.
        head_bytes: the most bytes of a request's line and headers; 431.
        headers: the most headers of a request; 431.
        url: the most bytes of path and query; 414. An id of 512 characters takes at most 6,144.
        head_seconds: seconds from the first byte of a request, or from the opening of a connection, to the
            end of the headers; 408.
        body_seconds: seconds from the end of the headers to the end of the body; 408.
        idle_seconds: seconds for which a connection stays open between two requests. Proxies commonly keep
            their connections for 60 seconds; it is better that the proxy closes them than that both sides do
            so at the same time.
        wrong_keys: wrong API keys per second of one address in the long run, and ten times as many at once;
            429. Keys that were valid from this address before still work.

    Raises:
        ConfigError: if a limit is not positive, or ``connections`` exceeds what open files allow.
    """

    body: int = 1 << 20
    together: int = 256
    seconds: float = 30.0
    rate: float | None = None
    connections: int | None = None
    per_address: int | None = None
    head_bytes: int = 32 << 10
    headers: int = 100
    url: int = 8 << 10
    head_seconds: float = 10.0
    body_seconds: float = 30.0
    idle_seconds: float = 75.0
    wrong_keys: float = 1.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and not value > 0:  # written so that "not a number" is refused
                raise ConfigError(f"{field.name} is {value}; it must be above 0")
        files = open_files()
        most = None if files is None else _without_reserve(files)
        if self.connections is not None and most is not None and self.connections > most:
            raise ConfigError(
                f"connections is {self.connections:,}, but this process may open {files:,} files, of which "
                f"{(files or 0) - most:,} are kept for the store; allow at most {most:,}, or raise the limit "
                "(ulimit -n)"
            )

    @property
    def most_connections(self) -> int:
        """The most connections in total: the given number, or its default."""
        if self.connections is not None:
            return self.connections
        files = open_files()
        return _MOST_CONNECTIONS if files is None else min(_MOST_CONNECTIONS, _without_reserve(files))

    @property
    def most_per_address(self) -> int:
        """The most connections of one address: the given number, or its default."""
        most = self.most_connections
        return max(1, most // 2) if self.per_address is None else min(most, self.per_address)


def open_files() -> int | None:
    """Return how many files this process may open; None if there is no limit or it is not known."""
    if resource is None:
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else int(soft)


def _without_reserve(files: int) -> int:
    return max(_FEWEST_CONNECTIONS, files - max(_KEPT, files // 4))


@lru_cache(maxsize=4_096)
def origin(host: str) -> str:
    """Return what identifies a client: an IPv4 address, or the /64 network of an IPv6 address.

    A single client usually has a whole /64 network.

    Args:
        host: an address as the server gives it. Anything else, such as the path of a Unix socket, is returned
            unchanged.
    """
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((address, 64), strict=False).network_address)
