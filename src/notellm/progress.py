"""How far long work is: a bar on a terminal or in a notebook, else a plain line now and then.

A bar that redraws itself fills a log file with fragments. So where standard error is no terminal, a line with
rate and remaining time is written every half a minute, and one at the end of what took longer than that.
"""

import io
import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm as terminal_bar
from tqdm.auto import tqdm

_SECONDS = 30.0  # between two lines


def progress_bar(work: Iterable[Any] | None = None, **options: Any) -> Any:
    """Return a bar of tqdm, or something with the same methods that writes lines.

    Args:
        work: what the bar iterates over; None for a bar that is moved by ``update``.
        options: those of ``tqdm``, such as ``total``, ``initial``, ``unit``, ``desc`` and ``disable``.
    """
    is_notebook = any(base.__module__ == "tqdm.notebook" for base in tqdm.__mro__)
    return (tqdm if is_notebook or sys.stderr.isatty() else Lines)(work, **options)


class Lines(terminal_bar):  # type: ignore[misc]  # tqdm has no types
    """A bar whose every drawing is a line."""

    def __init__(self, work: Iterable[Any] | None = None, **options: Any) -> None:
        options |= {"mininterval": _SECONDS, "maxinterval": 2 * _SECONDS, "file": sys.stderr}
        self._told = int(options.get("initial", 0))  # how far the latest line says that the work is
        self._told_at = 0.0  # seconds after the start
        super().__init__(work, **options)

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Write a line if the work has gone on and the latest one is old, whoever asks for a drawing."""
        del msg, pos
        elapsed = self.format_dict["elapsed"]
        if self.n > self._told and elapsed - self._told_at >= _SECONDS:
            self._told, self._told_at = self.n, elapsed
            self.fp.write(f"{line_of(self.format_dict)}\n")
            self.fp.flush()

    def clear(self, nolock: bool = False) -> None:
        """Do nothing: a line stays."""
        del nolock

    def close(self) -> None:
        """Write the last line of what took long."""
        if not self.disable:
            if self.format_dict["elapsed"] >= _SECONDS:
                self._told_at = -_SECONDS
                self.display()
            self._told = self.n
            self.fp = io.StringIO()  # where tqdm writes its last drawing
        super().close()


def line_of(state: dict[str, Any]) -> str:
    """Return a line such as ``embed: 1,280 of 5,766 (22 %), 212.4 note/s, 00:21 left``.

    Args:
        state: ``format_dict`` of a bar.
    """
    done, total, initial, elapsed = (state[name] for name in ("n", "total", "initial", "elapsed"))
    rate = state["rate"] or (done - initial) / max(elapsed, 1e-9)
    shown = terminal_bar.format_sizeof if state["unit_scale"] else "{:,}".format
    figures = [f"{shown(done)} {state['unit']}"]
    if total:
        figures = [f"{shown(done)} of {shown(total)} ({100 * done // total} %)"]
    figures.append(f"{terminal_bar.format_sizeof(rate)} {state['unit']}/s")
    if total and done < total:
        figures.append(f"{terminal_bar.format_interval((total - done) / rate)} left")
    else:
        figures.append(f"{terminal_bar.format_interval(elapsed)} gone")
    return (f"{state['prefix']}: " if state["prefix"] else "") + ", ".join(figures)
