"""How much memory there is: what is free on the machine, and what a container's limit leaves of it."""

import os
from contextlib import suppress
from pathlib import Path

CGROUP_V2, CGROUP_V1 = Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/memory")
OWN_CGROUP = Path("/proc/self/cgroup")


def available_bytes() -> int:
    """Bytes that may be taken without swapping, a container's limit counted."""
    return max(0, min(_machine_bytes(), *_cgroup_bytes()))


def _machine_bytes() -> int:
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


def _cgroup_bytes() -> list[int]:
    """What the control groups (version 2 or 1) leave: limit less use, files that can be dropped not counted as use."""
    found = [2**62]
    for groups, limit, use, cached in (
        (_cgroup_dirs(CGROUP_V2, ""), "memory.max", "memory.current", "inactive_file"),
        (_cgroup_dirs(CGROUP_V1, "memory"), "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        for group in groups:
            try:
                most = int((group / limit).read_text())
                used = int((group / use).read_text())
                stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
            except (OSError, ValueError):  # no such group, or "max": no limit
                continue
            found.append(most - used + int(stat.get(cached, 0)))
    return found


def _cgroup_dirs(root: Path, controller: str) -> list[Path]:
    """The control group of this process and those around it: a batch system's limit may lie in any of them.

    In a container its own is what it sees as the root, whatever its path is called.
    """
    found = [root]
    with suppress(OSError):
        for line in OWN_CGROUP.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controller in controllers.split(","):
                for name in Path(path).parts[1:]:
                    found.append(found[-1] / name)
    return found
