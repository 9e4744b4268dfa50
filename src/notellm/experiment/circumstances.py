"""What a result depends on beside options and data: command, machine, versions, code."""

import os
import platform
import shlex
import sys
from pathlib import Path

from notellm.experiment.cache import code_fingerprint
from notellm.record import versions


def circumstances() -> dict[str, str]:
    """Return command, machine, versions and code in words, by name."""
    command = [Path(sys.argv[0]).name, *sys.argv[1:]] if sys.argv[0] else []
    return {
        "command": shlex.join(command),
        "machine": machine(),
        "versions": ", ".join(f"{package} {number}" for package, number in versions().items()),
        "code": code_fingerprint(),
    }


def machine() -> str:
    """Describe cores, processor, memory and system."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    parts = [f"{cores} cores", processor()]
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
        parts.append(f"{memory:.0f} GiB memory")
    return ", ".join([*parts, platform.system()])


def processor() -> str:
    """Return the name of the processor."""
    facts = Path("/proc/cpuinfo")
    if facts.exists():
        names = [line for line in facts.read_text().splitlines() if line.startswith("model name")]
        if names:
            return names[0].split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
