"""Running the service: one process with one event loop, until it is told to stop.

On SIGTERM or Ctrl-C the service accepts nothing new, answers what it has accepted, and saves the index.
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
#: Seconds for which one thread may keep the interpreter while another one waits for it. A write needs the
#: interpreter about twenty times; with Python's default of 5 ms a busy event loop would delay it
#: considerably.
_TURN = 0.0005
_STOPPING = 30  # seconds that an answer may still take after the service was told to stop


def keys_from(environment: Mapping[str, str], *, no_keys: bool, host: str) -> Keys:
    """Read the API keys of a service from the environment.

    Args:
        environment: has the keys under NOTELLM_READ_KEYS and NOTELLM_WRITE_KEYS, separated by commas.
        no_keys: let everybody do everything; allowed only on a loopback address.
        host: the address on which the service listens.

    Raises:
        ConfigError: if there are no keys and ``no_keys`` is not set, if there are keys though it is set, or
            if it is set and the address is not a loopback address.
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
                f"--no-keys is allowed for this machine only, but {host} can be reached from others; "
                f"listen on 127.0.0.1, or set {WRITE_KEYS}"
            )
        return Keys()
    if not write and not read:
        raise ConfigError(
            f"there are no API keys: set {WRITE_KEYS} (and {READ_KEYS}) in the environment, or use --no-keys "
            "for a service that only this machine can reach"
        )
    return Keys(read, write)


def is_loopback(host: str) -> bool:
    """Return whether an address can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def in_url(host: str) -> str:
    """Return a host as URLs and the Host header have it: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host else host


def server(app: Guard, *, ready: Callable[[], None] | None = None) -> uvicorn.Server:
    """Make a server of an application, with the application's limits on connections.

    Args:
        app: an application of `create_app`.
        ready: is called once requests are accepted.
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
        engine: answers the requests; it is closed at the end.
        host: address to listen on.
        port: port to listen on.
        keys: the valid API keys.
        limits: the limits of the service.
        ready: is called once requests are accepted.
        level: the level of the log; at INFO it has one line per request.
        seconds: how long each step took before the engine was opened. The first line of the log shows them
            together with those of the engine.

    Raises:
        StorageError: if the service cannot listen on the address.
    """
    log_to_stderr(level)
    engine.progress = False  # a progress bar would disturb the log
    try:
        # uvicorn could do this, but would report an error in another form.
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except (OSError, UnicodeError) as error:
        engine.close()
        raise StorageError(
            f"cannot listen on {in_url(host)}:{port} ({error}); choose another port with --port"
        ) from error
    hosts = None if keys else {in_url(host), "localhost", "127.0.0.1", "[::1]"}
    running = server(create_app(engine, keys=keys, limits=limits, hosts=hosts), ready=ready)
    # All present objects stay until the end, so the garbage collector need not visit every note each time.
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
    for doubt in engine.doubts:
        log.warning("doubtful", extra={"detail": doubt})
    with listening:
        running.run([listening])
    log.info("stopped")


def open_browser(url: str) -> None:
    """Open a page in a browser if this machine has a screen; without one a text browser might start."""
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
        """Stop, at once at a second Ctrl-C; uvicorn would raise the signal again and not exit with 0."""
        self.force_exit |= self.should_exit and sig == signal.SIGINT
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and call ``ready`` once requests are accepted."""
        await super().startup(sockets)
        if self.started and self._ready is not None:
            self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Shut down in order, and write the last line about refused connections."""
        await super().shutdown(sockets)
        self._connections.log_refusals()
