"""Durations, sizes and counts as short text."""


def format_duration(seconds: float) -> str:
    """A duration in at most six characters: `5s`, `1m12s`, `2h05m`, `3d04h`."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d{hours:02}h"
    if hours:
        return f"{hours}h{minutes:02}m"
    return f"{minutes}m{seconds:02}s" if minutes else f"{seconds}s"


def format_bytes(count: float) -> str:
    """A size with three significant digits and a decimal unit: `12.3 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if round(count) < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def plural(count: int, noun: str) -> str:
    """A count with its noun: `1 epoch`, `1,293 images`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
