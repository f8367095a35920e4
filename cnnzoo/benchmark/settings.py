"""The ways of loading there are, and which of those measured is the one to use. Nothing here measures."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from cnnzoo.data.loaders.dali_loader import DaliLoader
from cnnzoo.data.loaders.torch_loader import TorchLoader

LOADERS: dict[str, Callable[..., Any]] = {"torch": TorchLoader, "dali": DaliLoader}
"""By what `loader=` calls them."""
KINDS = ("threads", "processes")
MODES = ("none", "encoded", "decoded")
TOLERANCE = 0.03
"""Of two ways whose figures differ by less than this share the simpler one is better."""


@dataclass(frozen=True)
class LoaderSetting:
    """One way of loading. `mode` is None for sets in memory; `kind` for DALI, and where there are no workers."""

    mode: str | None
    resize: int | None
    kind: str | None
    workers: int
    loader: str = "torch"

    @property
    def cache(self) -> str:
        """`decoded at 256`."""
        return f"{self.mode or 'not needed'}{f' at {self.resize}' if self.resize else ''}"

    @property
    def crew(self) -> str:
        """`4 threads`."""
        if not self.workers:
            return "training itself"
        if self.loader == "dali":
            return f"DALI, {self.workers} thread{'s' if self.workers > 1 else ''}"
        kind = {"threads": "thread", "processes": "process"}[str(self.kind)]
        return f"{self.workers} {kind if self.workers == 1 else self.kind}"

    @property
    def options(self) -> dict[str, Any]:
        """What the loader is built with."""
        return {"workers": self.workers, **({"kind": self.kind} if self.kind else {})}

    @property
    def settings(self) -> str:
        """What to type for it."""
        words = [
            f"data.cache.mode={self.mode}" if self.mode else "",
            f"data.cache.resize={self.resize}" if self.resize else "",
            f"loader={self.loader}",
            f"loader.kind={self.kind}" if self.kind else "",
            f"loader.workers={self.workers}",
        ]
        return " ".join(word for word in words if word)


@dataclass
class Measurement:
    """A way with its figures. `memory` is in bytes and `filling` in seconds, both of the cache of the whole set.

    `rates` are images per second of the loader alone, `trained` of training with it, `waits` the share of its time that
    training waited for batches: a figure for each round, none for what was not tried.
    """

    way: LoaderSetting
    memory: float = 0.0
    filling: float = 0.0
    rates: list[float] = field(default_factory=list)
    trained: list[float] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """The middle one of `rates`."""
        return median(self.rates)

    @property
    def training(self) -> float:
        """The middle one of `trained`."""
        return median(self.trained)

    @property
    def wait(self) -> float:
        """The middle one of `waits`."""
        return median(self.waits)

    @property
    def simplicity(self) -> tuple[float, int, int]:
        """Sorts the simpler way first: less memory, threads before processes before DALI, fewer workers."""
        crew = len(KINDS) if self.way.kind is None else KINDS.index(self.way.kind)
        return self.memory, 1 + crew if self.way.workers else 0, self.way.workers


def loader_settings(
    *,
    files: bool,
    cores: int,
    mode: str = "auto",
    resize: int | None = None,
    loaders: Sequence[str] = ("torch",),
    kind: str = "auto",
    workers: Any = "auto",
) -> list[LoaderSetting]:
    """The ways to measure, the simpler ones first: all, but for what was typed.

    Workers are 0 and the powers of two up to the number of cores, and that number. `resize` adds ways to those that
    keep images as they are. `loaders` are those that may be used, of `LOADERS`.
    """
    caches: list[tuple[str | None, int | None]] = [(None, None)]
    if files:
        modes = MODES if mode == "auto" else (mode,)
        sides = (None,) if resize is None else (None, resize)
        caches = [(each, side) for each in modes for side in (sides if each != "none" else (None,))]
    numbers = [workers]
    if workers == "auto":
        numbers = [0, *sorted({2**power for power in range(cores.bit_length()) if 2**power <= cores} | {cores})]
    kinds = KINDS if kind == "auto" else (kind,)
    crews: list[tuple[str | None, int, str]] = []
    if "torch" in loaders:
        crews += [(each, number, "torch") for number in numbers for each in (kinds if number else (None,))]
    if "dali" in loaders:
        crews += [(None, number, "dali") for number in numbers if number]
    return [LoaderSetting(mode, side, *crew) for mode, side in caches for crew in crews]


def choose_simplest(measured: Sequence[Measurement], figure: Callable[[Measurement], float]) -> Measurement:
    """The simplest of those whose figure is within 3 % of the best."""
    best = max(map(figure, measured))
    return min((each for each in measured if figure(each) >= (1 - TOLERANCE) * best), key=lambda each: each.simplicity)


def expected_rate(measured: Measurement, headspace: float, *, cores: int, on_cpu: bool) -> float:
    """Images per second that training may reach with a way, from its rate alone and the `headspace`.

    Without workers training and loading take turns. Workers leave an accelerator alone, but on a CPU take their share
    of the cores from training.
    """
    rate, workers = measured.rate, measured.way.workers
    if not workers:
        return 1 / (1 / headspace + 1 / rate)
    if on_cpu:
        return min(rate, 1 / (1 / headspace + min(1.0, workers / cores) / rate))
    return min(rate, headspace)


def choose_finalists(
    measured: Sequence[Measurement], headspace: float, *, cores: int, on_cpu: bool, most: int
) -> list[Measurement]:
    """The ways to try under training: the `most` most promising, and the one that loads fastest.

    Of each cache there is one without workers, one with threads and one with processes, at most.
    """

    def promise(each: Measurement) -> float:
        return expected_rate(each, headspace, cores=cores, on_cpu=on_cpu)

    classes: dict[Any, list[Measurement]] = {}
    for each in measured:
        classes.setdefault((each.way.loader, each.way.mode, each.way.resize, each.way.kind), []).append(each)
    left = [choose_simplest(alike, promise) for alike in classes.values()]
    found: list[Measurement] = []
    while left and len(found) < most:
        found.append(choose_simplest(left, promise))
        left.remove(found[-1])
    fastest = max(measured, key=lambda each: each.rate)
    return found if fastest in found else [*found, fastest]
