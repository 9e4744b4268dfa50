"""Running the service: one process, one event loop, until it is told to stop.

SIGTERM or Ctrl-C: nothing new is accepted, what was accepted is answered, the index is saved.
"""

import gc
import ipaddress
import logging
import os
import signal
import socket
import sys
import webbrowser
from collections.abc import Callable, Mapping
from types import FrameType

import uvicorn

from notellm.engine.engine import Engine
from notellm.errors import ConfigError, StorageError
from notellm.serve.app import create_app
from notellm.serve.connections import Connections
from notellm.serve.guard import Guard
from notellm.serve.keys import Keys
from notellm.serve.limits import Limits
from notellm.serve.log import log, log_to_stderr

READ_KEYS, WRITE_KEYS = "NOTELLM_READ_KEYS", "NOTELLM_WRITE_KEYS"
_BACKLOG = 512  # connections that wait to be accepted
#: Seconds for which one thread may keep the interpreter while another wants it. A write needs it some twenty
#: times, and at Python's own 5 ms a busy event loop made that 120 ms where it takes 30 alone.
_TURN = 0.0005
_STOPPING = 30  # seconds that an answer may take once it is to stop


def keys_from(environment: Mapping[str, str], *, no_keys: bool, host: str) -> Keys:
    """The API keys of a service.

    Args:
        environment: has them under NOTELLM_READ_KEYS and NOTELLM_WRITE_KEYS, several with commas between.
        no_keys: let everybody do everything; only where the service is reached from this machine alone.
        host: where it listens.

    Raises:
        ConfigError: there are none and that is not what was asked for, or not on a loopback address.
    """
    names = (READ_KEYS, WRITE_KEYS)
    read, write = ([k.strip() for k in environment.get(n, "").split(",") if k.strip()] for n in names)
    if no_keys:
        if read or write:
            raise ConfigError(
                f"--no-keys and {READ_KEYS} or {WRITE_KEYS} contradict each other; leave one out"
            )
        if not is_loopback(host):
            raise ConfigError(
                f"--no-keys is for this machine alone, but {host} can be reached from others; "
                f"listen on 127.0.0.1, or set {WRITE_KEYS}"
            )
        return Keys()
    if not write and not read:
        raise ConfigError(
            f"there are no API keys: set {WRITE_KEYS} (and {READ_KEYS}) in the environment, or say --no-keys "
            "for a service that this machine alone can reach"
        )
    return Keys(read, write)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def in_url(host: str) -> str:
    """A host as it stands in a URL and in the Host header: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host else host


def server(app: Guard, *, ready: Callable[[], None] | None = None) -> uvicorn.Server:
    """A server of an application, which keeps the application's limits on connections.

    Args:
        app: of `create_app`.
        ready: called once requests are accepted.
    """
    connections = Connections(app.limits, app.metrics)
    config = uvicorn.Config(
        app,
        http=connections.protocol(),
        ws="none",
        lifespan="on",
        log_config=None,  # the guard logs requests
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=_STOPPING,
        backlog=_BACKLOG,
    )
    return _Server(config, connections, ready)


def serve(
    engine: Engine,
    *,
    host: str,
    port: int,
    keys: Keys,
    limits: Limits,
    ready: Callable[[], None] | None = None,
    level: int = logging.INFO,
    seconds: Mapping[str, float] | None = None,
) -> None:
    """Answer requests until the process is told to stop.

    Args:
        engine: what answers; closed at the end.
        host: address to listen on.
        port: port to listen on.
        keys: who may ask.
        limits: what is taken on.
        ready: called once requests are accepted.
        level: of the log, which has a line a request at INFO.
        seconds: that the start took before the engine was opened, by step; the log's first line has them
            beside those of the engine.

    Raises:
        StorageError: the address cannot be listened on.
    """
    log_to_stderr(level)
    engine.progress = False  # a bar would stand between the lines of the log, and wait for whoever reads them
    try:
        # Before uvicorn would, which logs what goes wrong in its own way.
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except (OSError, UnicodeError) as error:
        engine.close()
        raise StorageError(
            f"cannot listen on {in_url(host)}:{port} ({error}); is something else there? Try --port"
        ) from error
    hosts = None if keys else {in_url(host), "localhost", "127.0.0.1", "[::1]"}
    running = server(create_app(engine, keys=keys, limits=limits, hosts=hosts), ready=ready)
    # All that is there now stays: the collector need not walk over every note again and again.
    gc.collect()
    gc.freeze()
    sys.setswitchinterval(_TURN)
    log.info(
        "starting",
        extra={
            "pid": os.getpid(),
            "address": f"{in_url(host)}:{port}",
            "notes": len(engine.notes),
            "keys": bool(keys),
            "connections": limits.most_connections,
            "connections_per_address": limits.most_per_address,
            "seconds": {**(seconds or {}), **engine.seconds},
        },
    )
    for mended in engine.report:
        log.warning("store mended", extra={"detail": mended})
    with listening:
        running.run([listening])
    log.info("stopped")


def open_browser(url: str) -> None:
    """Open a page in the user's browser, where there is a screen: on a server that would be one of text."""
    if sys.platform in ("darwin", "win32") or {"DISPLAY", "WAYLAND_DISPLAY"} & set(os.environ):
        webbrowser.open(url)


class _Server(uvicorn.Server):
    def __init__(
        self, config: uvicorn.Config, connections: Connections, ready: Callable[[], None] | None
    ) -> None:
        super().__init__(config)
        self._connections = connections
        self._ready = ready

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn's signature
        """Stop, at a second Ctrl-C at once; uvicorn would raise the signal again, which is not status 0."""
        self.force_exit |= self.should_exit and sig == signal.SIGINT
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Say so when requests are accepted."""
        await super().startup(sockets)
        if self.started and self._ready is not None:
            self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End in order; what was refused last is told."""
        await super().shutdown(sockets)
        self._connections.say()
