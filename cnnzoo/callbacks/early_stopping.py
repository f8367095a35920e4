"""Stops a run whose validation has stopped improving."""

import logging
import sys
from typing import Any

from pytorch_lightning import LightningModule, Trainer, callbacks

from cnnzoo.checks import check_int, check_number
from cnnzoo.runtime.formatting import plural

log = logging.getLogger(__name__)


class EarlyStopping(callbacks.EarlyStopping):
    """Ends training after `patience` validations without a new best of `monitor`; None never does.

    A value is a new best if it is better than the best so far by more than `min_delta`. The run then ends as after its
    last epoch. A resumed run continues counting, with the `patience` of its own configuration. If that is exhausted
    already, it trains no further step.
    """

    def __init__(self, *, monitor: str, patience: int | None = None, min_delta: float = 0.0) -> None:
        key = "callbacks.early_stopping"
        if patience is not None:
            check_int(f"{key}.patience", patience, minimum=1, note="(null turns it off)")
        check_number(f"{key}.min_delta", min_delta, minimum=0)
        self.is_enabled = patience is not None
        super().__init__(
            monitor,
            min_delta=min_delta,
            patience=sys.maxsize if patience is None else patience,
            mode="min" if "loss" in monitor else "max",
            check_finite=False,  # such a value is no new best; NanGuard looks at the training loss
        )

    @property
    def is_exhausted(self) -> bool:
        """Whether the last `patience` validations brought no new best."""
        return self.wait_count >= self.patience

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict({**state_dict, "patience": self.patience})

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.is_enabled:  # otherwise the metric would be read, for which a GPU is waited for
            super().on_train_epoch_end(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.is_enabled:
            super().on_validation_end(trainer, pl_module)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.is_exhausted:  # a resumed run has nothing left to train
            trainer.should_stop = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.should_stop and self.is_exhausted:
            log.info(
                "stopped early after %s: %s was not better than %.4f in %s (callbacks.early_stopping.patience=%d)",
                plural(trainer.current_epoch, "epoch"),
                self.monitor,
                self.best_score,
                plural(self.wait_count, "validation"),
                self.patience,
            )
