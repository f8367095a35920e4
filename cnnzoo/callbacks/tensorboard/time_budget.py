"""How often what can be left out is shown: as often as a small share of the run's time pays for."""

import time
from types import TracebackType

from cnnzoo.errors import UserError


class TimeBudget:
    """Time that may be spent, at most `max_time_fraction` of what has gone by since `start`; nothing spent, some is always left.

    Spend it in a `with` block. So pictures come after every epoch of a long training, and rarely in one whose epochs
    take no longer than a picture; the share holds either way. `key` is what sets the share, for the error.
    """

    def __init__(self, max_time_fraction: float, key: str) -> None:
        if not 0 < max_time_fraction <= 1:
            raise UserError(f"{key}={max_time_fraction}: a share of the time, above 0 and at most 1")
        self.max_time_fraction = max_time_fraction
        self.start()

    def start(self) -> None:
        """Begin to count."""
        self.began, self.spent = time.perf_counter(), 0.0

    @property
    def left(self) -> bool:
        """Whether some may be spent now."""
        return self.covers(0.0)

    def covers(self, seconds: float) -> bool:
        """Whether so much may be spent now."""
        return self.spent + seconds <= self.max_time_fraction * (time.perf_counter() - self.began)

    def __enter__(self) -> None:
        self._entered = time.perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.spent += time.perf_counter() - self._entered
