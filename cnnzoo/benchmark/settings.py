"""The loader settings to measure, and the choice of the best one. Nothing is measured here."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from cnnzoo.data.loaders.dali_loader import DaliLoader
from cnnzoo.data.loaders.torch_loader import TorchLoader

LOADERS: dict[str, Callable[..., Any]] = {"torch": TorchLoader, "dali": DaliLoader}
"""The loaders by the names that `loader=` takes."""
WORKER_KINDS = ("threads", "processes")
CACHE_MODES = ("none", "encoded", "decoded")
TOLERANCE = 0.03
"""Settings within this fraction of the fastest one count as equally fast; the simplest of them is chosen."""


@dataclass(frozen=True)
class LoaderSetting:
    """One combination of cache, loader and workers.

    mode: of the cache; None for data sets in memory.
    resize: size to which cached images are resized; None to keep their size.
    kind: "threads" or "processes"; None for DALI and without workers.
    """

    mode: str | None
    resize: int | None
    kind: str | None
    workers: int
    loader: str = "torch"

    @property
    def cache_text(self) -> str:
        """`decoded at 256`."""
        return f"{self.mode or 'not needed'}{f' at {self.resize}' if self.resize else ''}"

    @property
    def workers_text(self) -> str:
        """`4 threads`."""
        if not self.workers:
            return "main process"
        if self.loader == "dali":
            return f"DALI, {self.workers} thread{'s' if self.workers > 1 else ''}"
        singular = {"threads": "thread", "processes": "process"}[str(self.kind)]
        return f"{self.workers} {singular if self.workers == 1 else self.kind}"

    @property
    def loader_options(self) -> dict[str, Any]:
        """Arguments for the constructor of the loader."""
        return {"workers": self.workers, **({"kind": self.kind} if self.kind else {})}

    @property
    def overrides_text(self) -> str:
        """The overrides to type for this setting."""
        overrides = [
            f"data.cache.mode={self.mode}" if self.mode else "",
            f"data.cache.resize={self.resize}" if self.resize else "",
            f"loader={self.loader}",
            f"loader.kind={self.kind}" if self.kind else "",
            f"loader.workers={self.workers}",
        ]
        return " ".join(override for override in overrides if override)


@dataclass
class Measurement:
    """The results for one setting. The lists have one value per round and are empty if not measured.

    memory_bytes, fill_seconds: of the cache of the whole data set.
    loader_rates: images per second of the loader alone.
    training_rates: images per second of training with the loader.
    data_waits: fraction of the training time, 0 to 1, spent waiting for batches.
    """

    setting: LoaderSetting
    memory_bytes: float = 0.0
    fill_seconds: float = 0.0
    loader_rates: list[float] = field(default_factory=list)
    training_rates: list[float] = field(default_factory=list)
    data_waits: list[float] = field(default_factory=list)

    @property
    def loader_rate(self) -> float:
        """Median of `loader_rates`."""
        return median(self.loader_rates)

    @property
    def training_rate(self) -> float:
        """Median of `training_rates`."""
        return median(self.training_rates)

    @property
    def data_wait(self) -> float:
        """Median of `data_waits`."""
        return median(self.data_waits)

    @property
    def complexity(self) -> tuple[float, int, int]:
        """Sort key, simplest first: less memory, then threads before processes before DALI, then fewer workers."""
        setting = self.setting
        kind = len(WORKER_KINDS) if setting.kind is None else WORKER_KINDS.index(setting.kind)
        return self.memory_bytes, 1 + kind if setting.workers else 0, setting.workers


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
    """List the settings to measure, the simpler ones first.

    files: whether the images are files, which can be cached; False for data sets in memory.
    cores: number of CPU cores. The numbers of workers are 0, the powers of two up to `cores`, and `cores`.
    resize: also measure the caches with images of this size.
    loaders: the usable loaders, from `LOADERS`.
    mode, kind, workers: a value other than "auto" is the only one that is measured.
    """
    caches: list[tuple[str | None, int | None]] = [(None, None)]
    if files:
        modes = CACHE_MODES if mode == "auto" else (mode,)
        sizes = (None,) if resize is None else (None, resize)
        caches = [(mode, size) for mode in modes for size in (sizes if mode != "none" else (None,))]
    worker_counts = [workers]
    if workers == "auto":
        worker_counts = [0, *sorted({2**power for power in range(cores.bit_length()) if 2**power <= cores} | {cores})]
    kinds = WORKER_KINDS if kind == "auto" else (kind,)
    worker_settings: list[tuple[str | None, int, str]] = []
    if "torch" in loaders:
        worker_settings += [(kind, count, "torch") for count in worker_counts for kind in (kinds if count else (None,))]
    if "dali" in loaders:
        worker_settings += [(None, count, "dali") for count in worker_counts if count]
    return [LoaderSetting(mode, size, *worker_setting) for mode, size in caches for worker_setting in worker_settings]


def choose_simplest(measurements: Sequence[Measurement], rate: Callable[[Measurement], float]) -> Measurement:
    """The simplest of the measurements whose `rate` is within 3 % of the highest one."""
    threshold = (1 - TOLERANCE) * max(map(rate, measurements))
    return min((m for m in measurements if rate(m) >= threshold), key=lambda m: m.complexity)


def expected_rate(measurement: Measurement, headspace: float, *, cores: int, on_cpu: bool) -> float:
    """Estimate images per second of training from the rate of the loader alone and from `headspace`.

    headspace: images per second of training without data loading.

    Without workers, training and loading alternate. With workers and an accelerator the slower of both sets the rate.
    With workers and training on the CPU, the workers also take their share of the cores from training.
    """
    rate, workers = measurement.loader_rate, measurement.setting.workers
    if not workers:
        return 1 / (1 / headspace + 1 / rate)
    if on_cpu:
        return min(rate, 1 / (1 / headspace + min(1.0, workers / cores) / rate))
    return min(rate, headspace)


def choose_finalists(
    measurements: Sequence[Measurement], headspace: float, *, cores: int, on_cpu: bool, limit: int
) -> list[Measurement]:
    """The settings to measure in training: the `limit` with the best expected rates, and the fastest loader.

    For each cache and loader, at most one setting without workers, one with threads and one with processes is chosen.
    """

    def expected(measurement: Measurement) -> float:
        return expected_rate(measurement, headspace, cores=cores, on_cpu=on_cpu)

    groups: dict[Any, list[Measurement]] = {}
    for measurement in measurements:
        setting = measurement.setting
        groups.setdefault((setting.loader, setting.mode, setting.resize, setting.kind), []).append(measurement)
    candidates = [choose_simplest(group, expected) for group in groups.values()]
    finalists: list[Measurement] = []
    while candidates and len(finalists) < limit:
        finalists.append(choose_simplest(candidates, expected))
        candidates.remove(finalists[-1])
    fastest = max(measurements, key=lambda m: m.loader_rate)
    return finalists if fastest in finalists else [*finalists, fastest]
