"""The best and the last checkpoint of a run."""

import torch
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor


class BestCheckpoint(ModelCheckpoint):
    """`best.ckpt` and `last.ckpt` in `dirpath`; among epochs that are equally good the latest is the best.

    A small validation split ties often (digits: 143 images), and Lightning's own rule would then keep the earliest.
    """

    def __init__(self, dirpath: str, *, monitor: str) -> None:
        mode = "min" if monitor.endswith("loss") else "max"
        super().__init__(
            dirpath, "best", monitor=monitor, mode=mode, save_last=True, enable_version_counter=False, save_top_k=1
        )

    def check_monitor_top_k(self, trainer: Trainer, current: Tensor | None = None) -> bool:
        """Whether `current` is at least as good as the best so far."""
        better = super().check_monitor_top_k(trainer, current)
        if better or current is None or not self.best_k_models:
            return better
        return bool(torch.eq(current, self.best_k_models[self.kth_best_model_path]).item())
