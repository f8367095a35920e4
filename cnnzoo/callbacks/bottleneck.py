"""Reports whether the data limits the speed of training, and which setting to change."""

import logging

from pytorch_lightning import Callback, LightningModule, Trainer

from cnnzoo.callbacks.throughput import Throughput
from cnnzoo.data.loaders.dali_loader import DaliLoader
from cnnzoo.data.loaders.torch_loader import TorchLoader
from cnnzoo.runtime.cpu import cores_per_rank

log = logging.getLogger(__name__)

DATA_WAIT_THRESHOLD = 0.1
"""Fraction of an epoch's time spent waiting for images above which the data counts as the bottleneck."""


class Bottleneck(Callback):
    """Warns after an epoch that waited for data: how much time was lost, and which setting to change.

    Logs again only when the suggestion changes. Needs the `Throughput` callback, which measures the waiting.
    """

    def __init__(self) -> None:
        self._last_suggestion: str | None = None

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        throughput = next((callback for callback in trainer.callbacks if isinstance(callback, Throughput)), None)  # type: ignore[attr-defined]
        data_wait = None if throughput is None else throughput.epoch_data_wait
        if data_wait is None or data_wait <= DATA_WAIT_THRESHOLD or not trainer.is_global_zero:
            return
        loader = trainer.train_dataloader
        suggestion = ""
        if isinstance(loader, TorchLoader | DaliLoader):
            suggestion = suggest_change(loader, cores_per_rank(trainer.num_devices))
        if suggestion == self._last_suggestion:
            return
        self._last_suggestion = suggestion
        log.warning(
            "the data is the bottleneck: %.0f%% of the epoch was spent waiting for images; "
            "without it training would be %.1f times as fast%s",
            100 * data_wait,
            1 / max(1 - data_wait, 0.01),
            f"; try {suggestion}" if suggestion else "",
        )


def suggest_change(loader: TorchLoader | DaliLoader, cores: int) -> str:
    """The setting to change first to get batches sooner, as text; empty if there is none left.

    cores: how many the rank of the loader may use.
    """
    if getattr(loader, "images_on_gpu", False):
        return ""
    split = loader.split
    if not split.has_files:
        return "loader.workers=1, which builds batches in advance" if not loader.workers else ""
    cached_fraction = 0.0 if split.store is None else split.store.num_cached / len(split)
    if not cached_fraction:
        return "data.cache.mode=auto, which keeps the images in RAM"
    if loader.workers < cores:
        return f"loader.workers={cores}, one per core"
    if cached_fraction < 0.99:
        return (
            f"a larger data.cache.budget, or data.cache.resize=256: only {cached_fraction:.0%} of the images are in RAM"
        )
    if split.store is not None and split.store.channels is None:
        return "data.cache.mode=decoded, which decodes each image once; if that does not fit, data.cache.resize=256 too"
    uses_threads = getattr(loader, "kind", "") == "threads"
    return "loader.kind=processes, which do not compete with training for Python's interpreter" if uses_threads else ""
