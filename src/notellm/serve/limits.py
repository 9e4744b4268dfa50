"""What the service takes on, and how many connections that makes at most.

A limit protects everybody else from one client. Most have a default that nobody needs to change; ``notellm
serve`` has options for the others. Behind a reverse proxy all connections come from the proxy's address: give
``per_address`` as many as ``connections`` there.
"""

import ipaddress
from dataclasses import dataclass, fields
from functools import lru_cache
from types import ModuleType

from notellm.errors import ConfigError

try:
    import resource as _resource
except ImportError:  # Windows has no limit that can be asked for
    resource: ModuleType | None = None
else:
    resource = _resource

#: More connections than this are not taken by default, however many files may be open: each costs memory.
_MOST_CONNECTIONS = 4_096
#: File handles that are kept for store, index and log: a quarter of all, at least this many.
_KEPT = 128
_FEWEST_CONNECTIONS = 16


@dataclass(frozen=True)
class Limits:
    """What the service takes on.

    Attributes:
        body: bytes of a request's body.
        together: requests that are worked on or wait at one time; a request counts once its body is there.
        seconds: of work on one request, once its body is there; 504 after that.
        rate: requests a second of one key (without keys: of one address), in the long run; as many at once;
            None has no limit.
        connections: open connections; None is what the process's limit of open files allows, less a quarter
            (at least 128) for the store, and 4,096 at most.
        per_address: open connections of one address (of IPv6: one /64 network); None is half of
            ``connections``. Behind a reverse proxy all connections come from one address.
        head_bytes: bytes of a request's line and headers; 431 beyond.
        headers: number of a request's headers; 431 beyond.
        url: bytes of path and query; 414 beyond. An id of 512 characters takes 6,144 at most.
        head_seconds: from the first byte of a request, or from the opening of a connection, to the end of its
            headers; 408 after that.
        body_seconds: from the end of the headers to the end of the body; 408 after that.
        idle_seconds: for which a connection stays open between two requests. Proxies commonly keep theirs for
            60 seconds; it is better that the proxy closes them than that both do at the same time.
        wrong_keys: wrong API keys a second of one address, in the long run; ten times as many at once. 429
            beyond; keys that were right from there before are taken all the same.

    Raises:
        ConfigError: one is not positive, or more connections are asked for than files may be open.
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
            if value is not None and not value > 0:  # so that "not a number" is refused, too
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
        """Connections in all, with the default where none are given."""
        if self.connections is not None:
            return self.connections
        files = open_files()
        return _MOST_CONNECTIONS if files is None else min(_MOST_CONNECTIONS, _without_reserve(files))

    @property
    def most_per_address(self) -> int:
        """Connections of one address, with the default where none are given."""
        most = self.most_connections
        return max(1, most // 2) if self.per_address is None else min(most, self.per_address)


def open_files() -> int | None:
    """How many files this process may have open; None where there is no limit or it is not known."""
    if resource is None:
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else int(soft)


def _without_reserve(files: int) -> int:
    return max(_FEWEST_CONNECTIONS, files - max(_KEPT, files // 4))


@lru_cache(maxsize=4_096)
def origin(host: str) -> str:
    """By what clients are told apart: an IPv4 address, or the /64 network of IPv6, which is one client's.

    Args:
        host: an address as the server gives it; what is none (a path of a Unix socket) stays as it is.
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
