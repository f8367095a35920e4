"""Checks of a job's settings before anything is built: the values that Lightning and torch reject late, or accept
although they make no sense. Nothing here imports torch, so a wrong value is reported at once.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cnnzoo.checks import check_bool, check_choice, check_int, check_number
from cnnzoo.errors import UserError, unknown
from cnnzoo.runtime.formatting import plural

Check = Callable[[str, Any], object]
"""Called with a key and its value; raises UserError for a value that is not allowed."""

EVALUATION_METRICS = ("val/acc1", "val/acc5", "val/loss")
METRICS = (*EVALUATION_METRICS, "train/loss", "train/acc1", "train/loss_epoch", "train/acc1_epoch")
"""Metrics that a callback can monitor."""
PRECISIONS = ("auto", "16", "16-true", "16-mixed", "bf16", "bf16-true", "bf16-mixed", "32", "32-true", "64", "64-true")
COMPILE_MODES = ("default", "reduce-overhead", "max-autotune")
PROFILERS = ("simple", "advanced", "pytorch")
UNSUPPORTED_CALLBACKS = {
    "LearningRateFinder": "try several rates instead, with -m optimizer.lr=0.3,0.1,0.03,0.01",
    "BatchSizeFinder": "set data.batch_size; a run that exceeds the memory says what to type",
    "BackboneFinetuning": "set model.weights and a low optimizer.lr to fine-tune all layers",
}
"""Callbacks that change the run from within, and what to do instead."""


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
    "test": check_bool,
    "compile": _compile,
    "channels_last": _bool_or_auto,
    "tf32": _optional(_bool_or_auto),
    "ema": _optional(_number("such as 0.999, or null to turn averaging off", above=0, below=1)),
    "label_smoothing": _number(minimum=0, below=1),
    "optimized_metric": _choice(*EVALUATION_METRICS),
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
}
SCHEDULER_CHECKS: dict[str, Check] = {
    "warmup_epochs": _optional(_number(minimum=0)),
    "min_lr_ratio": _number(minimum=0, maximum=1),
    "gamma": _number(minimum=0, maximum=1),
    "milestones": _milestones,
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
    "log_every_n_steps": _optional(_int(1)),
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


def check_config(cfg: DictConfig) -> None:
    """Raise UserError for a setting of the wrong type, out of range, or that contradicts another one.

    cfg: the configuration of `train` or `benchmark`.
    """
    try:
        config: Any = OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as error:
        raise UserError(f"the configuration has a reference without a value: {str(error).splitlines()[0]}") from error
    _check_values("", config, RUN_CHECKS)
    for group, checks in (
        ("optimizer", OPTIMIZER_CHECKS),
        ("scheduler", SCHEDULER_CHECKS),
        ("trainer", TRAINER_CHECKS),
    ):
        if isinstance(config.get(group), dict):
            _check_values(f"{group}.", config[group], checks)
    _check_parts(config)
    _check_optimizer(config.get("optimizer") or {})
    _check_trainer(config)
    _check_callbacks(config)


def _check_values(prefix: str, values: Mapping[str, Any], checks: Mapping[str, Check]) -> None:
    for name, check in checks.items():
        if name in values:
            check(f"{prefix}{name}", values[name])


def _check_parts(config: Mapping[str, Any]) -> None:
    """Raise UserError where the configuration must have a group of keys, and has a single value."""
    parts = {"model.args": config["model"]["args"]}
    parts |= {f"data.{name}": config["data"][name] for name in ("source", "cache", "augment", "loader")}
    for key, value in parts.items():
        if not isinstance(value, dict):
            raise UserError(f"{key}={value}: expected a group of keys; type {key}.<name>=<value> to set one of them")
    for group in ("callbacks", "logger"):
        for name, node in (config.get(group) or {}).items():
            if node is not None and not (isinstance(node, dict) and "_target_" in node):
                raise UserError(
                    f"{group}.{name}={node}: expected null, or keys of which {group}.{name}._target_ is the class"
                )


def _check_optimizer(optimizer: Mapping[str, Any]) -> None:
    if optimizer.get("nesterov") and optimizer.get("momentum", 0) == 0:
        raise UserError("optimizer.momentum=0: Nesterov momentum needs momentum; also type optimizer.nesterov=false")


def _check_trainer(config: Mapping[str, Any]) -> None:
    trainer, has_loggers = config["trainer"], "logger" in config
    max_epochs, max_steps = trainer["max_epochs"], trainer["max_steps"]
    if config.get("scheduler") and max_epochs in (None, -1) and max_steps == -1:
        raise UserError(
            f"trainer.max_epochs={max_epochs}: the learning-rate schedule needs a number of steps; set "
            "trainer.max_epochs to 1 or more, or set trainer.max_steps"
        )
    fast_dev_run = trainer["fast_dev_run"]
    if not isinstance(fast_dev_run, bool):
        check_int("trainer.fast_dev_run", fast_dev_run, minimum=1, note="(batches), true or false")
    warmup = (config.get("scheduler") or {}).get("warmup_epochs")
    if warmup is not None and (max_epochs or -1) > 0 and max_steps == -1 and warmup > max_epochs:
        note = f"(the training has {plural(max_epochs, 'epoch')})"
        check_number("scheduler.warmup_epochs", warmup, minimum=0, maximum=max_epochs, note=note)
    if trainer["use_distributed_sampler"]:
        raise UserError("trainer.use_distributed_sampler=true: the devices already get different images; leave it out")
    if config["compile"] in COMPILE_MODES[1:] and trainer["accumulate_grad_batches"] > 1:
        raise UserError(
            f"compile={config['compile']}: its CUDA graphs overwrite gradients that are still being accumulated; type "
            "compile=default, or trainer.accumulate_grad_batches=1"
        )
    precision = trainer["precision"]
    if (config.get("optimizer") or {}).get("fused") is True and str(precision) in ("16", "16-mixed"):
        raise UserError(
            f"optimizer.fused=true: with trainer.precision={precision} the optimizer unscales the gradients itself, "
            "too late for clipping and logging; leave it out, or type trainer.precision=bf16-mixed"
        )
    if trainer["barebones"]:
        raise UserError(
            "trainer.barebones=true: Lightning then takes neither callbacks nor metrics, which every run has; type "
            "callbacks=minimal for less of them"
        )
    if not has_loggers:
        return
    for key in ("logger", "callbacks"):
        if key in trainer:
            raise UserError(f"trainer.{key}={trainer[key]}: set by another group; type {key}=..., or {key}=none")
    if trainer["enable_checkpointing"] is False and config["callbacks"].get("checkpoint") is not None:
        raise UserError("trainer.enable_checkpointing=false: to save no checkpoints, type callbacks.checkpoint=null")


def _check_callbacks(config: Mapping[str, Any]) -> None:
    """Raise UserError for callbacks that cannot work, and for a monitored metric that is never logged."""
    nodes = {name: node for name, node in (config.get("callbacks") or {}).items() if node is not None}
    packages = {node["_target_"].partition(".")[0] for node in nodes.values()}
    for name, node in nodes.items():
        target = str(node["_target_"]).rpartition(".")[2]
        if target in UNSUPPORTED_CALLBACKS:
            raise UserError(
                f"callbacks.{name}: {target} does not work with this pipeline; {UNSUPPORTED_CALLBACKS[target]}"
            )
        if target == "ModelPruning" and config["channels_last"]:
            raise UserError(
                f"callbacks.{name}: ModelPruning cannot prune channels-last weights; type channels_last=false"
            )
        if target.endswith("ProgressBar") and name != "progress" and "progress" in nodes:
            raise UserError(f"callbacks.{name}: only one progress bar is possible; also type callbacks.progress=null")
        if "monitor" not in node:
            continue
        key, metric = f"callbacks.{name}.monitor", node["monitor"]
        if target == "CheckpointSaver":
            check_choice(key, metric, EVALUATION_METRICS)
        elif metric is not None and metric not in METRICS and packages <= {"cnnzoo", "pytorch_lightning", "lightning"}:
            raise UserError(f"{key}={metric}: {unknown('metric', str(metric), METRICS)}")
        elif metric in METRICS:
            mode = "max" if "acc" in metric else "min"
            if node.get("mode", "min") != mode:
                raise UserError(f"{key}={metric}: also type +callbacks.{name}.mode={mode}")


def check_accelerator(trainer: DictConfig) -> None:
    """Raise UserError if `trainer.accelerator` and `trainer.devices` ask for GPUs that this machine does not have."""
    import torch  # here: nothing above needs it, and it takes seconds

    accelerator, devices = trainer.accelerator, trainer.devices
    has_mps, num_gpus = torch.backends.mps.is_available(), torch.cuda.device_count()
    found = {"mps": has_mps, "cuda": num_gpus > 0, "gpu": has_mps or num_gpus > 0}
    if not found.get(accelerator, True):
        cpu_only = torch.version.cuda is None and torch.version.hip is None
        reason = " (this build of torch is for the CPU only)" if cpu_only else ""
        raise UserError(
            f"trainer.accelerator={accelerator}: torch finds no such device{reason}; type trainer=cpu, or "
            "trainer=default for the fastest device"
        )
    if accelerator in ("gpu", "cuda") and num_gpus and str(devices) != "-1":
        is_list = isinstance(devices, ListConfig) or "," in str(devices)
        largest = max(map(int, re.findall(r"\d+", str(devices))), default=0) + is_list
        if largest > num_gpus:
            raise UserError(
                f"trainer.devices={devices}: this machine has {plural(num_gpus, 'GPU')}, numbered from 0; type "
                "trainer.devices=auto for all of them"
            )
