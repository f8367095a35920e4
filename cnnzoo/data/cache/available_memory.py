"""The memory that is available to this process: free on the machine, and within the limits of its control groups."""

import os
from contextlib import suppress
from pathlib import Path

CGROUP_V2, CGROUP_V1 = Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/memory")
OWN_CGROUP = Path("/proc/self/cgroup")
FALLBACK_BYTES = 4 * 2**30  # if the operating system does not report its memory
NO_LIMIT_BYTES = 2**62


def available_bytes() -> int:
    """Bytes that can be allocated without swapping and within the container's memory limit."""
    return max(0, min(_machine_bytes(), *_cgroup_bytes()))


def _machine_bytes() -> int:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:  # not Linux: assume that half of the physical memory is free
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, ValueError, OSError):
        return FALLBACK_BYTES


def _cgroup_bytes() -> list[int]:
    """What each control group (version 2 or 1) still allows: its limit minus its usage.

    The page cache that the kernel can drop (inactive files) does not count as usage.
    """
    available = [NO_LIMIT_BYTES]
    for groups, limit_file, usage_file, inactive_key in (
        (_cgroup_dirs(CGROUP_V2, ""), "memory.max", "memory.current", "inactive_file"),
        (_cgroup_dirs(CGROUP_V1, "memory"), "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        for group in groups:
            try:
                limit = int((group / limit_file).read_text())
                usage = int((group / usage_file).read_text())
                stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
            except (OSError, ValueError):  # no such group, or "max", which means no limit
                continue
            available.append(limit - usage + int(stat.get(inactive_key, 0)))
    return available


def _cgroup_dirs(root: Path, controller: str) -> list[Path]:
    """The directories of this process's control group and of all its parents; a batch system may limit any of them.

    In a container, `root` is the container's own group, whatever path /proc/self/cgroup shows.
    """
    directories = [root]
    with suppress(OSError):
        for line in OWN_CGROUP.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controller in controllers.split(","):
                for name in Path(path).parts[1:]:
                    directories.append(directories[-1] / name)
    return directories
