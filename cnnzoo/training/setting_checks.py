"""What each setting accepts: one check per key, for those that Lightning and torch reject late or not at all."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from cnnzoo.checks import check_bool, check_choice, check_int, check_number
from cnnzoo.errors import UserError

Check = Callable[[str, Any], object]
"""Called with a key and its value; raises UserError for a value that is not allowed."""

EVALUATION_METRICS = {
    "multiclass": ("val/acc1", "val/acc5", "val/balanced_acc", "val/f1", "val/loss"),
    "multilabel": ("val/map", "val/f1", "val/loss"),
}
"""Metrics of a validation, by task."""
TRAINING_METRICS = {
    "multiclass": ("train/loss", "train/acc1", "train/loss_epoch", "train/acc1_epoch"),
    "multilabel": ("train/loss", "train/loss_epoch"),
}
"""Further metrics that a callback can monitor, by task."""
PRECISIONS = ("auto", "16", "16-true", "16-mixed", "bf16", "bf16-true", "bf16-mixed", "32", "32-true", "64", "64-true")
COMPILE_MODES = ("default", "reduce-overhead", "max-autotune")
PROFILERS = ("simple", "advanced", "pytorch")


def _optional(check: Check) -> Check:
    """`check`, which also accepts null."""
    return lambda key, value: None if value is None else check(key, value)


def _int(minimum: int, note: str = "", *, also: tuple[Any, ...] = ()) -> Check:
    """A whole number from `minimum`, or one of the values `also`."""

    def check(key: str, value: Any) -> object:
        if not isinstance(value, bool) and value in also:
            return value
        return check_int(key, value, minimum=minimum, note=note)

    return check


def _number(note: str = "", **bounds: float) -> Check:
    return lambda key, value: check_number(key, value, note=note, **bounds)


def _choice(*choices: Any) -> Check:
    return lambda key, value: check_choice(key, value, choices)


def _batches(minimum: int) -> Check:
    """A whole number of batches from `minimum`, or a fraction of them up to 1.0, greater than 0 if `minimum` is."""

    def check(key: str, value: Any) -> object:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if is_number and isinstance(value, float) and (0 < value <= 1 or value == minimum == 0):
            return value
        if is_number and isinstance(value, int) and value >= minimum:
            return value
        lowest = "above 0.0" if minimum else "from 0.0"
        raise UserError(
            f"{key}={value}: expected a number of batches >= {minimum}, or a fraction of them {lowest} to 1.0"
        )

    return check


def _duration(key: str, value: Any) -> None:
    if isinstance(value, Mapping) or re.fullmatch(r"\d+:\d\d:\d\d:\d\d", str(value)):
        return
    raise UserError(
        f"{key}={value}: expected days:hours:minutes:seconds, each with two digits, such as 00:01:30:00 for 90 minutes"
    )


def _max_epochs(key: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or (value < 1 and value != -1):
        raise UserError(
            f"{key}={value}: expected a number of epochs >= 1, or -1 (until trainer.max_steps or trainer.max_time)"
        )


def _val_check_interval(key: str, value: Any) -> None:
    check = _duration if isinstance(value, str) and ":" in value else _batches(1)
    check(key, value)


def _devices(key: str, value: Any) -> object:
    if isinstance(value, int | float) or value is None:
        return _int(1, "or auto", also=(-1,))(key, value)
    text = str(value)
    if text != "auto" and not re.fullmatch(r"-1|[1-9]\d*|\[?\d+(, ?\d+)*,?\]?", text):
        raise UserError(f"{key}={value}: expected a number of devices, auto, or their numbers, such as [0,1]")
    return value


def _strategy(key: str, value: Any) -> None:
    if isinstance(value, str) and (
        not re.fullmatch(r"auto|ddp(_\w+)?|single_device", value) or re.search("spawn|fork|notebook", value)
    ):
        raise UserError(f"{key}={value}: expected auto or ddp; type trainer=fsdp for sharded weights")


def _precision(key: str, value: Any) -> object:
    return check_choice(key, str(value), PRECISIONS)


def _bool_or_auto(key: str, value: Any) -> None:
    if not isinstance(value, bool) and value != "auto":
        raise UserError(f"{key}={value}: expected auto, true or false")


def _compile(key: str, value: Any) -> None:
    if not isinstance(value, bool) and value not in COMPILE_MODES:
        raise UserError(f"{key}={value}: expected false, true, {', '.join(COMPILE_MODES[:-1])} or {COMPILE_MODES[-1]}")


def _class_weights(key: str, value: Any) -> None:
    if value in (None, "balanced"):
        return
    values = list(value) if isinstance(value, list | tuple) else [None]
    if not all(isinstance(weight, int | float) and not isinstance(weight, bool) and weight >= 0 for weight in values):
        raise UserError(f"{key}={value}: expected balanced, null, or a number >= 0 for each class, such as [1,2,0.5]")


def _betas(key: str, value: Any) -> None:
    values = list(value) if isinstance(value, list | tuple) else []
    if len(values) != 2 or not all(isinstance(beta, int | float) and 0 <= beta < 1 for beta in values):
        raise UserError(f"{key}={value}: expected two numbers >= 0 and < 1, such as [0.9,0.999]")


def _milestones(key: str, value: Any) -> None:
    values = value if isinstance(value, list | tuple) else [None]
    if not all(isinstance(milestone, int | float) and 0 < milestone < 1 for milestone in values):
        raise UserError(f"{key}={value}: expected fractions of the training, each > 0 and < 1, such as [0.5,0.75]")


RUN_CHECKS: dict[str, Check] = {
    "seed": lambda key, value: check_int(key, value, minimum=0, maximum=2**32 - 1),
    "task": _choice(*EVALUATION_METRICS),
    "test": check_bool,
    "compile": _compile,
    "channels_last": _bool_or_auto,
    "tf32": _optional(_bool_or_auto),
    "ema": _optional(_number("such as 0.999, or null to turn averaging off", above=0, below=1)),
    "tune": _choice(None, "lr", "batch_size"),
    "decay_norm_bias": check_bool,
    "label_smoothing": _number(minimum=0, below=1),
    "mixup": _number("(alpha; 0 turns it off)", minimum=0),
    "cutmix": _number("(alpha; 0 turns it off)", minimum=0),
    "focal_gamma": _number("(0 is cross-entropy)", minimum=0),
    "class_weights": _class_weights,
    "freeze_epochs": _int(0, "or auto", also=("auto",)),
    "first_layer_lr_ratio": lambda key, value: value == "auto" or check_number(key, value, above=0, maximum=1),
    "gradient_checkpointing": check_bool,
    "test_time_flip": check_bool,
}
OPTIMIZER_CHECKS: dict[str, Check] = {
    "lr": _number(minimum=0),
    "weight_decay": _number(minimum=0),
    "momentum": _number(minimum=0, below=1),
    "dampening": _number(minimum=0),
    "eps": _number(above=0),
    "betas": _betas,
    "alpha": _number(minimum=0, maximum=1),
    "nesterov": check_bool,
    "amsgrad": check_bool,
    "maximize": check_bool,
    "fused": _optional(_bool_or_auto),
    "foreach": _optional(check_bool),
    "centered": check_bool,
    "weight_decouple": check_bool,
    "precondition_frequency": _int(1),
    "max_precondition_dim": _int(1),
}
SCHEDULER_CHECKS: dict[str, Check] = {
    "warmup_epochs": _optional(_number(minimum=0)),
    "min_lr_ratio": _number(minimum=0, maximum=1),
    "gamma": _number(minimum=0, maximum=1),
    "milestones": _milestones,
    "power": _number(above=0),
    "patience": _int(0),
    "every_n_epochs": _optional(_int(1)),
}
TRAINER_CHECKS: dict[str, Check] = {
    "max_epochs": _optional(_max_epochs),
    "min_epochs": _optional(_int(0)),
    "max_steps": _int(1, "or -1 (no limit)", also=(-1,)),
    "min_steps": _optional(_int(0)),
    "max_time": _optional(_duration),
    "limit_train_batches": _optional(_batches(1)),
    "limit_val_batches": _optional(_batches(0)),
    "limit_test_batches": _optional(_batches(0)),
    "limit_predict_batches": _optional(_batches(0)),
    "overfit_batches": _batches(0),
    "val_check_interval": _optional(_val_check_interval),
    "check_val_every_n_epoch": _optional(_int(1)),
    "num_sanity_val_steps": _optional(_int(0, "or -1 (the whole validation)", also=(-1,))),
    "log_every_n_steps": _optional(_int(1, "or auto", also=("auto",))),
    "accumulate_grad_batches": _int(1),
    "gradient_clip_val": _optional(_number(minimum=0)),
    "gradient_clip_algorithm": _optional(_choice("norm", "value")),
    "reload_dataloaders_every_n_epochs": _int(0),
    "accelerator": _choice("auto", "cpu", "gpu", "cuda", "mps"),
    "devices": _devices,
    "strategy": _strategy,
    "num_nodes": _int(1),
    "precision": _optional(_precision),
    "deterministic": _optional(_choice(True, False, "warn")),
    "benchmark": _optional(_bool_or_auto),
    "enable_checkpointing": _optional(check_bool),
    "enable_progress_bar": _optional(check_bool),
    "enable_model_summary": _optional(check_bool),
    "inference_mode": check_bool,
    "detect_anomaly": check_bool,
    "sync_batchnorm": check_bool,
    "barebones": check_bool,
    "profiler": lambda key, value: None if isinstance(value, dict) else _choice(None, *PROFILERS)(key, value),
    "use_distributed_sampler": check_bool,
}
