"""The figures as a table for the terminal and for CSV, and what limits training in one line."""

from collections.abc import Sequence
from itertools import groupby
from math import isfinite
from typing import Any

from rich.table import Table

from cnnzoo.benchmark.settings import Measurement
from cnnzoo.callbacks.bottleneck import DATA_WAIT_THRESHOLD
from cnnzoo.runtime.formatting import format_bytes


def results_table(measured: Sequence[Measurement], headspace: float, chosen: Measurement) -> Table:
    """A line for each way, the chosen one in bold and marked, one for each cache that does not fit."""
    shown = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for header in (
        "cache",
        "RAM",
        "filled in",
        "made by",
        "alone,\nimages/s",
        "training,\nimages/s",
        "of head-\nspace",
    ):
        figure = header not in ("cache", "made by")
        shown.add_column(header, justify="right" if figure else "left", no_wrap=True)
    shown.add_column("waits", justify="right", no_wrap=True)
    for place, (cache, alike) in enumerate(groupby(measured, key=lambda each: each.way.cache)):
        if place:
            shown.add_row()
        members = list(alike)
        first = members[0]
        about = [cache, "-", "-"]
        if first.memory:
            about = [cache, format_bytes(first.memory) if isfinite(first.memory) else "", filling_time(first.filling)]
        if not first.rates:
            shown.add_row(*about, "does not fit", style="dim")
            continue
        for each in members:
            figures = [f"{each.rate:,.0f}", "", "", ""]
            if each.trained:
                share = each.training / headspace
                figures[1:] = [f"{each.training:,.0f}", f"{share:.0%}", f"{each.wait:.0%}"]
            mark = " *" if each is chosen else ""
            shown.add_row(*about, f"{each.way.crew}{mark}", *figures, style="bold" if each is chosen else "")
            about = ["", "", ""]
    return shown


def result_rows(measured: Sequence[Measurement], headspace: float, chosen: Measurement) -> list[dict[str, Any]]:
    """The same for CSV: memory in bytes and filling in seconds of the whole set, medians; empty where not measured."""
    return [
        {
            "loader": each.way.loader,
            "cache": each.way.mode,
            "resize": each.way.resize,
            "kind": each.way.kind,
            "workers": each.way.workers,
            "memory_bytes": round(each.memory) if isfinite(each.memory) else None,
            "filling_seconds": each.filling,
            "measured": bool(each.rates),
            "loader_images_per_second": each.rate if each.rates else None,
            "training_images_per_second": each.training if each.trained else None,
            "headspace_images_per_second": headspace,
            "data_wait": each.wait if each.trained else None,
            "chosen": each is chosen,
        }
        for each in measured
    ]


def bottleneck_text(chosen: Measurement, headspace: float) -> str:
    """What limits training with the chosen way, and by how much."""
    share, spare = chosen.training / headspace, chosen.rate / headspace
    if share >= 1 - DATA_WAIT_THRESHOLD:
        return (
            f"the network: training does {min(share, 1):.0%} of what it would if data cost nothing; the loader alone "
            f"makes {spare:.1f} times as many images"
        )
    beside = "" if 1 - share - chosen.wait < DATA_WAIT_THRESHOLD else ", and making batches beside it slows it down"
    return (
        f"the data: training does {share:.0%} of what it would if data cost nothing, and could be {1 / share:.1f} "
        f"times as fast; it waits {chosen.wait:.0%} of its time{beside}"
    )


def cache_hint(measured: Sequence[Measurement], chosen: Measurement) -> dict[str, str]:
    """What to try where no cache is chosen and one does not fit; empty elsewhere."""
    large = list(dict.fromkeys(each.way.cache for each in measured if not each.rates))
    if chosen.memory or not large:
        return {}
    return {
        "to try": "a larger data.cache.budget, or data.cache.resize=256, to make room for a cache that is "
        f"{' or '.join(large)}; data.cache.mode=auto keeps as many images as fit"
    }


def filling_time(seconds: float) -> str:
    """`12.3 s`, `4 min`, `2.5 h`."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
