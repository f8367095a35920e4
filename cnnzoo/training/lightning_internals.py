"""Everything that relies on internals of Lightning to make a training step cheaper than Lightning's own.

`tests/training/test_lightning_internals.py` fails if Lightning changes what this module replaces or reads.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loops import training_epoch_loop
from pytorch_lightning.profilers import PassThroughProfiler
from pytorch_lightning.trainer import call

VERSIONS = ("2.6.",)
"""Beginnings of the versions of Lightning whose functions `direct_hook_calls` replaces."""
REPLACED = (
    (call, "_call_callback_hooks"),
    (call, "_call_lightning_module_hook"),
    (call, "_call_strategy_hook"),
    (training_epoch_loop, "is_param_in_hook_signature"),
)
"""The functions that `direct_hook_calls` replaces: their modules and names."""


def log_row(trainer: pl.Trainer, values: Mapping[str, float], *, prog_bar: tuple[str, ...]) -> None:
    """Pass values of the present training step to the loggers, the callbacks and the progress bar.

    This has the effect of `LightningModule.log` without a tensor on the device for each value.
    """
    connector = trainer._logger_connector
    tensors = {name: torch.tensor(value) for name, value in values.items()}
    connector._logged_metrics.update(tensors)
    connector._callback_metrics.update(tensors)
    connector._progress_bar_metrics.update({name: values[name] for name in prog_bar if name in values})
    step = trainer.fit_loop.epoch_loop._batches_that_stepped
    for logger in trainer.loggers:
        logger.log_metrics({**values, "epoch": trainer.current_epoch}, step=step)


@contextmanager
def direct_hook_calls(trainer: pl.Trainer) -> Iterator[None]:
    """Call the hooks of callbacks, module and strategy directly, in Lightning's order and with its arguments.

    In each step, Lightning calls every hook of every callback, also those that do nothing, enters a context of the
    profiler for each, stores the hook's name through `nn.Module.__setattr__`, and inspects the signature of
    `training_step`. A trainer with a profiler, and other versions of Lightning than `VERSIONS`, keep that.
    """
    profiler: Any = trainer.profiler  # type: ignore[attr-defined]
    if not pl.__version__.startswith(VERSIONS) or type(profiler) is not PassThroughProfiler:
        yield
        return
    originals = [getattr(module, name) for module, name in REPLACED]
    *call_functions, has_parameter = originals
    direct, no_context = _DirectCalls(trainer, *call_functions), nullcontext()
    replacements = (
        direct.call_callback_hooks,
        direct.call_lightning_module_hook,
        direct.call_strategy_hook,
        lru_cache(has_parameter),
    )
    for (module, name), function in zip(REPLACED, replacements, strict=True):
        setattr(module, name, function)
    profiler.profile = lambda action_name: no_context  # type: ignore[assignment, return-value]
    try:
        yield
    finally:
        del profiler.profile
        for (module, name), function in zip(REPLACED, originals, strict=True):
            setattr(module, name, function)


class _DirectCalls:
    """The functions that replace Lightning's; other trainers than `trainer` keep Lightning's."""

    def __init__(
        self,
        trainer: pl.Trainer,
        callback_hooks: Callable[..., None],
        module_hook: Callable[..., Any],
        strategy_hook: Callable[..., Any],
    ) -> None:
        self.trainer = trainer
        self.callback_hooks, self.module_hook, self.strategy_hook = callback_hooks, module_hook, strategy_hook
        self.callbacks: list[pl.Callback] = []
        self.overridden: dict[str, list[Callable[..., Any]]] = {}  # hooks of `callbacks`, by name

    def call_callback_hooks(self, trainer: pl.Trainer, hook_name: str, *args: Any, **kwargs: Any) -> None:
        module = trainer.lightning_module
        if trainer is not self.trainer or module is None or "monitoring_callbacks" in kwargs:
            self.callback_hooks(trainer, hook_name, *args, **kwargs)  # also at the end of an epoch, for some callbacks
            return
        if self.callbacks != trainer.callbacks:  # type: ignore[attr-defined]
            self.callbacks, self.overridden = list(trainer.callbacks), {}  # type: ignore[attr-defined]
        if hook_name not in self.overridden:
            self.overridden[hook_name] = overridden_hooks(self.callbacks, hook_name)
        if hooks := self.overridden[hook_name]:
            attributes = vars(module)
            previous, attributes["_current_fx_name"] = attributes["_current_fx_name"], hook_name
            for hook in hooks:
                hook(trainer, module, *args, **kwargs)
            attributes["_current_fx_name"] = previous

    def call_lightning_module_hook(
        self,
        trainer: pl.Trainer,
        hook_name: str,
        *args: Any,
        pl_module: pl.LightningModule | None = None,
        **kwargs: Any,
    ) -> Any:
        if trainer is not self.trainer:
            return self.module_hook(trainer, hook_name, *args, pl_module=pl_module, **kwargs)
        module = trainer.lightning_module if pl_module is None else pl_module
        attributes = vars(module)
        previous, attributes["_current_fx_name"] = attributes["_current_fx_name"], hook_name
        output = getattr(module, hook_name)(*args, **kwargs)
        attributes["_current_fx_name"] = previous
        return output

    def call_strategy_hook(self, trainer: pl.Trainer, hook_name: str, *args: Any, **kwargs: Any) -> Any:
        if trainer is not self.trainer:
            return self.strategy_hook(trainer, hook_name, *args, **kwargs)
        attributes = vars(trainer.lightning_module)
        previous, attributes["_current_fx_name"] = attributes["_current_fx_name"], hook_name
        output = getattr(trainer.strategy, hook_name)(*args, **kwargs)
        attributes["_current_fx_name"] = previous
        return output


def overridden_hooks(callbacks: Sequence[pl.Callback], hook_name: str) -> list[Callable[..., Any]]:
    """The hooks of that name of the callbacks that define their own."""
    default = getattr(pl.Callback, hook_name)
    hooks = [getattr(callback, hook_name) for callback in callbacks]
    return [hook for hook in hooks if getattr(hook, "__func__", hook) is not default]
