"""Limits optional work to a fraction of the training time."""

import time
from types import TracebackType

from cnnzoo.checks import check_number


class TimeBudget:
    """Allows optional work, such as pictures, as long as it takes at most `max_time_fraction` of the elapsed time.

    Work inside a `with` block is counted. Pictures then appear after every epoch of a long training, and rarely if an
    epoch takes no longer than a picture. Before anything is spent, there is always time left. `key` names the setting
    in the error for a fraction outside (0, 1].
    """

    def __init__(self, max_time_fraction: float, key: str) -> None:
        self.max_time_fraction = check_number(key, max_time_fraction, above=0, maximum=1)
        self.start()

    def start(self) -> None:
        """Start measuring elapsed and spent time."""
        self.start_time, self.spent_seconds = time.perf_counter(), 0.0

    @property
    def has_time_left(self) -> bool:
        """Whether optional work may start now."""
        return self.covers(0.0)

    def covers(self, seconds: float) -> bool:
        """Whether work that takes this long may start now."""
        elapsed = time.perf_counter() - self.start_time
        return self.spent_seconds + seconds <= self.max_time_fraction * elapsed

    def __enter__(self) -> None:
        self._enter_time = time.perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.spent_seconds += time.perf_counter() - self._enter_time
