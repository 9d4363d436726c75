"""The most memory that this process has held."""

from __future__ import annotations

import resource
from pathlib import Path


def peak_resident_mib() -> float:
    """Return the largest resident memory of this process so far, in MiB.

    The system's own account (`getrusage`) starts, in a process that another one started, with that one's size; Linux
    tells it apart.
    """
    try:
        status = Path("/proc/self/status").read_text()
        (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 1024
    except (OSError, ValueError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
