"""The results as a table for the terminal and for CSV, and a sentence that says what limits training."""

from collections.abc import Sequence
from itertools import groupby
from math import isfinite
from typing import TYPE_CHECKING, Any

from rich.table import Table

from cnnzoo.benchmark.settings import Measurement
from cnnzoo.callbacks.bottleneck import DATA_WAIT_THRESHOLD
from cnnzoo.runtime.formatting import format_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def results_table(measurements: Sequence[Measurement], headspace: float, best: Measurement) -> Table:
    """One row per setting, grouped by cache; `best` is bold and marked. A cache that does not fit has one row."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for header in (
        "cache",
        "RAM",
        "fill\ntime",
        "workers",
        "loader,\nimages/s",
        "training,\nimages/s",
        "of head-\nspace",
        "data\nwait",
    ):
        numeric = header not in ("cache", "workers")
        table.add_column(header, justify="right" if numeric else "left", no_wrap=True)
    for index, (cache, group) in enumerate(groupby(measurements, key=lambda m: m.setting.cache_text)):
        if index:
            table.add_row()
        same_cache = list(group)
        first = same_cache[0]
        cache_cells = [cache, "-", "-"]
        if first.memory_bytes:
            memory = format_bytes(first.memory_bytes) if isfinite(first.memory_bytes) else ""
            cache_cells = [cache, memory, format_fill_time(first.fill_seconds)]
        if not first.loader_rates:
            table.add_row(*cache_cells, "does not fit", style="dim")
            continue
        for measurement in same_cache:
            results = [f"{measurement.loader_rate:,.0f}", "", "", ""]
            if measurement.training_rates:
                rate = measurement.training_rate
                results[1:] = [f"{rate:,.0f}", f"{rate / headspace:.0%}", f"{measurement.data_wait:.0%}"]
            workers = measurement.setting.workers_text
            if measurement is best:
                table.add_row(*cache_cells, f"{workers} *", *results, style="bold")
            else:
                table.add_row(*cache_cells, workers, *results)
            cache_cells = ["", "", ""]
    return table


def result_rows(measurements: Sequence[Measurement], headspace: float, best: Measurement) -> list[dict[str, Any]]:
    """The rows for CSV, with medians. Memory (bytes) and fill time (seconds) are for the whole data set.

    Values that were not measured are None.
    """
    return [
        {
            "loader": m.setting.loader,
            "cache": m.setting.mode,
            "resize": m.setting.resize,
            "kind": m.setting.kind,
            "workers": m.setting.workers,
            "memory_bytes": round(m.memory_bytes) if isfinite(m.memory_bytes) else None,
            "filling_seconds": m.fill_seconds,
            "measured": bool(m.loader_rates),
            "loader_images_per_second": m.loader_rate if m.loader_rates else None,
            "training_images_per_second": m.training_rate if m.training_rates else None,
            "headspace_images_per_second": headspace,
            "data_wait": m.data_wait if m.training_rates else None,
            "chosen": m is best,
        }
        for m in measurements
    ]


def draw_results(figure: "Figure", *, measurements: Sequence[Measurement], headspace: float) -> None:
    """Bars of the images per second of the loaders alone, and of training; a line for training without loading."""
    measured = [m for m in measurements if m.loader_rates]
    names = [f"{m.setting.cache_text}, {m.setting.workers_text}" for m in measured]
    axes = figure.subplots()
    axes.barh(names, [m.loader_rate for m in measured], color="lightgray", label="loader alone")
    training = [m.training_rate if m.training_rates else 0.0 for m in measured]
    axes.barh(names, training, height=0.4, color="C0", label="training")
    axes.axvline(headspace, color="C1", label="training without loading")
    axes.set_xlabel("images per second")
    axes.tick_params(axis="y", labelsize=7)
    axes.invert_yaxis()
    figure.legend(loc="outside upper center", ncols=3, fontsize=8)


def bottleneck_text(best: Measurement, headspace: float) -> str:
    """Say whether the network or the data limits training with the best setting, and by how much."""
    share = best.training_rate / headspace
    if share >= 1 - DATA_WAIT_THRESHOLD:
        return (
            f"the network: training reaches {min(share, 1):.0%} of its speed without data loading; the loader alone "
            f"could supply {best.loader_rate / headspace:.1f} times as many images"
        )
    lost_without_waiting = 1 - share - best.data_wait
    slowed = lost_without_waiting >= DATA_WAIT_THRESHOLD
    note = "; building batches at the same time slows it down too" if slowed else ""
    return (
        f"the data: training reaches {share:.0%} of its speed without data loading and could be {1 / share:.1f} times "
        f"as fast; it waits for data {best.data_wait:.0%} of the time{note}"
    )


def cache_hint(measurements: Sequence[Measurement], best: Measurement) -> dict[str, str]:
    """A hint how to make room for a cache, if the best setting has none because one did not fit; else empty."""
    too_large = list(dict.fromkeys(m.setting.cache_text for m in measurements if not m.loader_rates))
    if best.memory_bytes or not too_large:
        return {}
    return {
        "to try": "a larger data.cache.budget or data.cache.resize=256, so that a cache fits "
        f"({' or '.join(too_large)}); data.cache.mode=auto caches as many images as fit"
    }


def format_fill_time(seconds: float) -> str:
    """`12.3 s`, `4 min`, `2.5 h`."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
