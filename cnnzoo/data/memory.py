"""How much memory there is: what is free on the machine, and what a container's limit leaves of it."""

import os
from pathlib import Path

V2, V1 = Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/memory")


def available() -> int:
    """Bytes that may be taken without swapping, a container's limit counted."""
    return max(0, min(_of_machine(), *_of_containers()))


def _of_machine() -> int:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:  # elsewhere than on Linux half of what is built in
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, ValueError, OSError):
        return 4 * 2**30


def _of_containers() -> list[int]:
    """What the control groups (version 2 or 1) leave: limit less use, files that can be dropped not counted as use."""
    found = [2**62]
    for place, limit, use, cached in (
        (V2, "memory.max", "memory.current", "inactive_file"),
        (V1, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            most = int((place / limit).read_text())
            used = int((place / use).read_text())
            stat = dict(line.split() for line in (place / "memory.stat").read_text().splitlines())
        except (OSError, ValueError):  # no such group, or "max": no limit
            continue
        found.append(most - used + int(stat.get(cached, 0)))
    return found
