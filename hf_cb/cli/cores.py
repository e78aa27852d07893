"""How many cores there are to compute on."""

import os
import sys


def available_cores() -> int:
    """Those that this process may use: a container or a job's scheduler may leave it less than the machine has."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
