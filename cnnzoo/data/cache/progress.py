"""Shows the progress while the cache is filled."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from cnnzoo.data.cache.fill import Report, log_progress
from cnnzoo.runtime.console import TimeLeftEstimator, live_bar
from cnnzoo.runtime.formatting import format_bytes


@contextmanager
def cache_progress(total: int) -> Iterator[Report]:
    """Show the progress of filling a cache of `total` images: a bar on a terminal, log lines elsewhere."""
    with live_bar() as bar:
        if bar is None:
            with log_progress(total) as report:
                yield report
            return
        start, estimator = time.perf_counter(), TimeLeftEstimator()

        def show(done: int, used_bytes: int) -> None:
            images_per_second = done / max(time.perf_counter() - start, 1e-9)
            bar.show(
                "filling cache",
                done,
                total,
                seconds_left=estimator.estimate(done, total),
                count=f"{done:,}/{total:,}",
                details=f"{images_per_second:,.0f} images/s  {format_bytes(used_bytes)}",
            )

        yield show
