"""Checks of a job's settings before anything is built: the values that Lightning and torch reject late, or accept
although they make no sense. Nothing here imports torch, so a wrong value is reported at once.
"""

import re
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cnnzoo.checks import check_choice, check_int, check_number
from cnnzoo.errors import UserError, unknown
from cnnzoo.runtime.formatting import plural
from cnnzoo.training.setting_checks import (
    COMPILE_MODES,
    EVALUATION_METRICS,
    OPTIMIZER_CHECKS,
    RUN_CHECKS,
    SCHEDULER_CHECKS,
    TRAINER_CHECKS,
    TRAINING_METRICS,
    Check,
)

UNSUPPORTED_CALLBACKS = {
    "LearningRateFinder": "type tune=lr instead",
    "BatchSizeFinder": "type tune=batch_size instead",
    "BackboneFinetuning": "set model.weights and a low optimizer.lr to fine-tune all layers",
}
"""Callbacks that change the run from within, and what to do instead."""


def check_config(cfg: DictConfig) -> None:
    """Raise UserError for a setting of the wrong type, out of range, or that contradicts another one.

    cfg: the configuration of `train` or `benchmark`.
    """
    try:
        config: Any = OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as error:
        raise UserError(f"the configuration has a reference without a value: {str(error).splitlines()[0]}") from error
    _check_values("", config, RUN_CHECKS)
    task = config.get("task", "multiclass")
    if "optimized_metric" in config:
        metric, other = config["optimized_metric"], "multiclass" if task == "multilabel" else "multilabel"
        note = f"({metric} is of task={other})" if metric in EVALUATION_METRICS[other] else ""
        check_choice("optimized_metric", metric, EVALUATION_METRICS[task], note=note)
    for group, checks in (
        ("optimizer", OPTIMIZER_CHECKS),
        ("scheduler", SCHEDULER_CHECKS),
        ("trainer", TRAINER_CHECKS),
    ):
        if isinstance(config.get(group), dict):
            _check_values(f"{group}.", config[group], checks)
    _check_parts(config)
    _check_custom(config)
    _check_loss(config)
    _check_optimizer(config.get("optimizer") or {}, config["trainer"]["strategy"])
    _check_validation(config)
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


def _check_custom(config: Mapping[str, Any]) -> None:
    """Raise UserError for a setting that a network of the user cannot have."""
    model = config["model"]
    if "target" not in model:
        return
    settings = {
        f"model.stem={model['stem']}": model["stem"] != "auto",
        f"model.aux_weight={model.get('aux_weight')}": model.get("aux_weight"),
        "gradient_checkpointing=true": config.get("gradient_checkpointing"),
    }
    for setting, is_set in settings.items():
        if is_set:
            raise UserError(f"{setting}: only cnnzoo's own networks have it, not {model['target']}; leave it out")


def _check_loss(config: Mapping[str, Any]) -> None:
    if config.get("gradient_checkpointing") and config["compile"]:
        raise UserError(
            f"gradient_checkpointing=true: torch.compile decides itself what to compute again; leave it out, or "
            f"type compile=false (not {config['compile']})"
        )
    for key in ("mixup", "cutmix"):
        if config.get("focal_gamma") and config.get(key):
            raise UserError(
                f"focal_gamma={config['focal_gamma']}: the focal loss is defined for one label per image, but {key} "
                f"mixes two; leave one of them out"
            )


def _check_optimizer(optimizer: Mapping[str, Any], strategy: Any) -> None:
    if optimizer.get("nesterov") and optimizer.get("momentum", 0) == 0:
        raise UserError("optimizer.momentum=0: Nesterov momentum needs momentum; also type optimizer.nesterov=false")
    target = str(optimizer.get("_target_"))
    package = target.partition(".")[0]
    if package == "pytorch_optimizer" and find_spec(package) is None:
        raise UserError(f'optimizer: {target} is not installed; type pip install "cnnzoo[optim]"')
    if package == "pytorch_optimizer" and isinstance(strategy, dict):
        raise UserError(
            f"optimizer: {target} needs whole weights, which trainer=fsdp shards; type trainer=ddp or optimizer=adamw"
        )


def _check_validation(config: Mapping[str, Any]) -> None:
    """Raise UserError if a schedule or a callback needs validations, and there are none."""
    trainer, scheduler = config["trainer"], config.get("scheduler") or {}
    early_stopping = (config.get("callbacks") or {}).get("early_stopping") or {}
    users = []
    if "monitor" in scheduler:
        metrics = known_metrics(config)
        if (metric := scheduler["monitor"]) not in metrics:
            raise UserError(f"scheduler.monitor={metric}: {unknown('metric', str(metric), metrics)}")
        check_number("scheduler.gamma", scheduler.get("gamma", 0), minimum=0, below=1)
        users.append("the schedule")
    if early_stopping.get("patience") is not None:
        users.append(f"callbacks.early_stopping.patience={early_stopping['patience']}")
    if users and trainer["limit_val_batches"] == 0:
        raise UserError(f"trainer.limit_val_batches=0: {users[0]} needs validations; leave it out")
    if "monitor" in scheduler and trainer["check_val_every_n_epoch"] is None:
        raise UserError(
            "trainer.check_val_every_n_epoch=null: the schedule needs a validation at the end of an epoch; type a "
            "number of epochs, or another scheduler"
        )


def known_metrics(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The metrics that a callback or a schedule can monitor."""
    task = config.get("task", "multiclass")
    return (*EVALUATION_METRICS[task], *TRAINING_METRICS[task])


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
    metrics = known_metrics(config)
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
            check_choice(key, metric, EVALUATION_METRICS[config.get("task", "multiclass")])
        elif metric is not None and metric not in metrics and packages <= {"cnnzoo", "pytorch_lightning", "lightning"}:
            raise UserError(f"{key}={metric}: {unknown('metric', str(metric), metrics)}")
        elif metric in metrics and not node["_target_"].startswith("cnnzoo."):
            mode = "min" if "loss" in metric else "max"
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
