"""Which step a metric belongs to, and whether this step or epoch is one that logs."""

from pytorch_lightning import Trainer


def logged_step(trainer: Trainer) -> int:
    """The step that Lightning logs figures of a training batch, a validation or a test under."""
    return trainer.fit_loop.epoch_loop._batches_that_stepped


def last_logged_step(trainer: Trainer) -> int:
    """The same in `on_train_epoch_end`, where the count is one ahead: that of the epoch's last batch."""
    return logged_step(trainer) - 1


def is_logging_step(trainer: Trainer) -> bool:
    """Whether this training step is one whose figures are logged."""
    return trainer._logger_connector.should_update_logs


def is_last_epoch(trainer: Trainer) -> bool:
    """Whether training ends with this epoch, as far as can be known."""
    ends = trainer.max_epochs is not None and trainer.current_epoch + 1 == trainer.max_epochs
    return ends or trainer.should_stop or trainer.global_step == trainer.max_steps
