"""The largest resident memory of this process while something is computed, where the system tells it."""

from pathlib import Path

_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
_RESET_PEAK = "5"  # Linux, proc_pid_clear_refs(5)


def reset_peak() -> bool:
    """Let the system measure the peak from now on; return whether it can."""
    try:
        _CLEAR.write_text(_RESET_PEAK)
    except OSError:  # no Linux, or /proc may not be written
        return False
    return True


def peak_mib() -> float | None:
    """Return the largest resident memory since :func:`reset_peak`, in MiB; None where it is not known.

    All memory of the process counts: libraries, data, and what the allocator keeps of earlier results.
    """
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    kib = next((line.split()[1] for line in lines if line.startswith("VmHWM:")), None)
    return None if kib is None else int(kib) / 1024
