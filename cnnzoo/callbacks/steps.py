"""The step that a metric is logged at, and whether the present step or epoch logs."""

from pytorch_lightning import Trainer


def logged_step(trainer: Trainer) -> int:
    """The step at which Lightning logs the metrics of a training batch, a validation or a test."""
    return trainer.fit_loop.epoch_loop._batches_that_stepped


def last_logged_step(trainer: Trainer) -> int:
    """The step of the epoch's last batch, for `on_train_epoch_end`, where Lightning's counter is one ahead."""
    return logged_step(trainer) - 1


def is_logging_step(trainer: Trainer) -> bool:
    """Whether the metrics of the present training step are logged."""
    return trainer._logger_connector.should_update_logs


def is_last_epoch(trainer: Trainer) -> bool:
    """Whether training ends with this epoch, as far as is known now."""
    is_max_epoch = trainer.max_epochs is not None and trainer.current_epoch + 1 == trainer.max_epochs
    return is_max_epoch or trainer.should_stop or trainer.global_step == trainer.max_steps
