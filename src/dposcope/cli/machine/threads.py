"""Threads of the program on a machine that it shares.

A thread of OpenMP that has done its part spins for the others, by default for many milliseconds. Where other programs
want the same cores, it then spins away the time in which the others could run. On two cores that some twenty processes
wanted, two tokens for 32 texts took 54 s, and 5 s with short spinning; where it came first, four took 0.4 s either way
(`benchmarks/shared_cores.py`).

A container that may use two of 64 cores sees all 64, and as many threads would wait for one another.
"""

import math
import os
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Final

SPINS: Final = "10000"
"""Rounds that a thread spins. With fewer, threads sleep between the parts of one product, and a free machine waits."""

_CHOSEN_SPINS = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
_CHOSEN_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""Environment variables by which a user chooses otherwise."""


def share_cores(environment: MutableMapping[str, str] = os.environ, *, groups: Path = Path("/sys/fs/cgroup")) -> None:
    """Set OpenMP's variables, which are read when torch is imported: short spinning, and as many threads as the
    container may use cores. What the user has set stays.

    Args:
        environment: of this process.
        groups: where Linux keeps the limits of containers.
    """
    if not _any(_CHOSEN_SPINS, environment):
        environment["GOMP_SPINCOUNT"] = SPINS
    cores = _allowed(groups)
    if cores is not None and cores < len(os.sched_getaffinity(0)) and not _any(_CHOSEN_THREADS, environment):
        environment["OMP_NUM_THREADS"] = str(cores)


def _any(names: tuple[str, ...], environment: Mapping[str, str]) -> bool:
    return any(name in environment for name in names)


def _allowed(groups: Path) -> int | None:
    """Cores that the container may use, rounded up; None without a limit."""
    try:
        if (unified := groups / "cpu.max").is_file():
            quota, period = unified.read_text().split()
        else:
            quota, period = ((groups / "cpu" / name).read_text() for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us"))
        return max(1, math.ceil(int(quota) / int(period))) if int(quota) > 0 else None
    except (OSError, ValueError, ZeroDivisionError):  # no Linux, no groups, or "max": no limit
        return None
