"""Whether the data or the network limits training, and what to do about it."""

import logging

from pytorch_lightning import Callback, LightningModule, Trainer

from cnnzoo.callbacks.throughput import Throughput
from cnnzoo.data.loaders.dali_loader import DaliLoader
from cnnzoo.data.loaders.torch_loader import TorchLoader
from cnnzoo.runtime.cpu import usable_cores

log = logging.getLogger(__name__)

DATA_WAIT_THRESHOLD = 0.1
"""Share of an epoch spent waiting for images, above which a line says so."""


class Bottleneck(Callback):
    """After an epoch that waited for data, one line with how much was lost and what to change; not twice the same."""

    def __init__(self) -> None:
        self._said: str | None = None

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the line, where there is something new to say."""
        speed = next((callback for callback in trainer.callbacks if isinstance(callback, Throughput)), None)  # type: ignore[attr-defined]
        wait = None if speed is None else speed.epoch_data_wait
        if wait is None or wait <= DATA_WAIT_THRESHOLD or not trainer.is_global_zero:
            return
        loader = trainer.train_dataloader
        what = advice(loader) if isinstance(loader, TorchLoader | DaliLoader) else ""
        if what == self._said:
            return
        self._said = what
        log.warning(
            "the data is the bottleneck: %.0f%% of the epoch was spent waiting for images; "
            "without it training would be %.1f times as fast%s",
            100 * wait,
            1 / max(1 - wait, 0.01),
            f"; try {what}" if what else "",
        )


def advice(loader: TorchLoader | DaliLoader) -> str:
    """What to type to have the loader's batches sooner, the surest first; empty where nothing is left to change."""
    split, cores = loader.split, usable_cores()
    if split.paths is None:
        return "loader.workers=1, which makes batches ahead" if not loader.workers else ""
    held = 0.0 if split.store is None else split.store.held / len(split)
    if not held:
        return "data.cache.mode=auto, which keeps the images in RAM"
    if loader.workers < cores:
        return f"loader.workers={cores}, one for each core"
    if held < 0.99:
        return f"a larger data.cache.budget, or data.cache.resize=256: {held:.0%} of the images are in RAM"
    if split.store is not None and split.store.channels is None:
        return "data.cache.mode=decoded, with data.cache.resize=256 if that does not fit: each image is decoded once"
    threads = getattr(loader, "kind", "") == "threads"
    return "loader.kind=processes, which do not take turns with training at running Python" if threads else ""
