"""The tables that a run logs: its settings before training, its results and the next commands after it."""

import logging
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf

from cnnzoo.data.cache.available_memory import available_bytes
from cnnzoo.data.cache.cache import Cache
from cnnzoo.data.datamodule import DataModule
from cnnzoo.data.loaders.base import Loader
from cnnzoo.data.transforms.pixel_format import format_text
from cnnzoo.models.input_spec import InputSpec
from cnnzoo.runtime.command import config_options, job_command
from cnnzoo.runtime.files import display_path
from cnnzoo.runtime.formatting import format_bytes, plural
from cnnzoo.sizes import size_override, size_text

log = logging.getLogger(__name__)


def log_table(rows: Mapping[str, str]) -> None:
    """Log a table with two columns, the names and the texts."""
    width = max(map(len, rows))
    for name, text in rows.items():
        log.info("%s  %s", name.ljust(width), text)


def run_table(
    data: DataModule, trainer: pl.Trainer, input_spec: InputSpec, cfg: DictConfig, parameters: int, loader: Loader
) -> dict[str, str]:
    """The table before training: network, data, device, loader and cache."""
    splits = {name: data.split(name) for name in ("train", "val", "test")}
    sizes = [f"{len(split):,} {name}" for name, split in splits.items() if split is not None]
    train = splits["train"]
    assert train is not None
    grows = data.start_size is not None and loader.image_size != input_spec.image_size
    growth = f" (from {size_override(loader.image_size)} in the first epochs)" if grows else ""
    fit = "" if data.augment.fit == "crop" else f", fit={data.augment.fit}"
    per_device = f" on each of {trainer.world_size} devices" if trainer.world_size > 1 else ""
    kind = cfg.model.get("target") or f"{input_spec.stem} stem"
    return {
        "model": f"{cfg.model.name} ({kind}), {parameters:,} parameters",
        "data": f"{data.name}: {data.num_classes} classes, {', '.join(sizes)} images",
        "input": f"{size_text(input_spec.image_size)}{growth}{fit}, "
        f"{format_text(input_spec.channels, data.bits)}, batches of {data.batch_size}{per_device}",
        "device": device_summary(trainer, cfg),
        "loader": loader.describe(),
        "cache": _cache_text(data.resolved_cache) if train.has_files else "not needed: the set is in memory",
        "run": display_path(Path(cfg.run_dir)),
    }


def final_table(metrics: Mapping[str, Any], run_dir: Path, *, is_custom: bool = False) -> dict[str, str]:
    """The table after training: the results, and commands that use them.

    is_custom: whether it is a network of the user, whose code the commands must be told to trust.
    """
    rows = {"validation": "none: there is no best epoch, so the last one counts"}
    if "val/loss" in metrics:
        epoch = f" (epoch {metrics['best_epoch']}, the best)" if "best_epoch" in metrics else ""
        rows["validation"] = _accuracy_text(metrics, "val") + epoch
    if "test/loss" in metrics:
        rows["test"] = _accuracy_text(metrics, "test")
    rows["time"] = f"{metrics['seconds']:,.0f} s for {plural(metrics['epochs'], 'epoch')}"
    run_path = display_path(run_dir)
    rows["run"] = run_path
    logdir = Path(run_path).parts[0] if not Path(run_path).is_absolute() else run_path
    rows["look at it"] = f"tensorboard --logdir {shlex.quote(logdir)}"
    name = next((name for name in ("best", "last") if (run_dir / "checkpoints" / f"{name}.ckpt").exists()), None)
    if name is not None:
        checkpoint = "" if name == "best" else f" checkpoint={name}"
        trust = " trust_code=true" if is_custom else ""
        rows["use it"] = f"{job_command('predict')} {shlex.quote(f'run={run_path}')}{checkpoint}{trust} images=IMAGE"
        weights = shlex.quote(f"model.weights={run_path}/checkpoints/{name}.ckpt")
        rows["start from it"] = f"{rerun_command(run_dir)} {weights}"
    return rows


def rerun_command(run_dir: Path) -> str:
    """The command of this run, without overrides that the next run must set itself, or that only tested or watched."""
    overrides = [str(override) for override in OmegaConf.load(run_dir / ".hydra" / "overrides.yaml")]
    overrides = [re.sub(r"^([\w.]+=)'([^'\\]*)'$", r"\1\2", override) for override in overrides]  # cnnzoo quotes paths
    omitted = re.compile(r"\+*(run_dir|resume|model\.weights|sweep|test|debug|trainer\.(profiler|fast_dev_run)[\w.]*)=")
    overrides = [o for o in overrides if not omitted.match(o) and o != "trainer=profile"]
    hydra_config = run_dir / ".hydra" / "hydra.yaml"
    options = config_options(OmegaConf.load(hydra_config).hydra) if hydra_config.is_file() else []
    return " ".join([job_command("train"), *map(shlex.quote, [*options, *overrides])])


def hyperparameters(cfg: DictConfig, input_spec: InputSpec, loader: str) -> dict[str, bool | str | float | int]:
    """The settings by which runs are compared, as a flat dict for the loggers."""
    height, width = input_spec.image_size
    optimizer, scheduler = cfg.optimizer._target_.split(".")[-1], cfg.scheduler._target_.split(".")[-1]
    values = {
        "model": cfg.model.name,
        "data": cfg.data.name,
        "optimizer": optimizer,
        "optimizer.lr": cfg.optimizer.get("lr"),
        "optimizer.weight_decay": cfg.optimizer.get("weight_decay"),
        "scheduler": scheduler,
        "epochs": cfg.trainer.max_epochs,
        "batch_size": cfg.data.batch_size,
        "image_size": height if height == width else size_override((height, width)),
        "stem": input_spec.stem,
        "augment": _augment_text(cfg.augment),
        "loader": loader,
        "label_smoothing": cfg.label_smoothing,
        "precision": str(cfg.trainer.precision or "32-true"),
        "seed": cfg.seed,
    }
    return {name: value for name, value in values.items() if value is not None}


HPARAM_NAMES = {
    "model.name": "model",
    "model.stem": "stem",
    "data.batch_size": "batch_size",
    "data.image_size": "image_size",
    "trainer.max_epochs": "epochs",
    "trainer.precision": "precision",
}
"""Configuration keys that have a shorter name among the hyperparameters."""


def cli_overrides(cfg: DictConfig) -> dict[str, bool | str | float | int]:
    """The overrides of the command line as hyperparameters; they include the keys that a sweep varies.

    Keys that only choose the run directory or what is shown are left out.
    """
    path = Path(cfg.run_dir) / ".hydra" / "overrides.yaml"
    if not path.exists():  # on a rank that did not compose the configuration
        return {}
    values: dict[str, bool | str | float | int] = {}
    for override in map(str, OmegaConf.load(path)):
        key, _, text = override.lstrip("+").partition("=")
        if text and not re.match(r"run_dir|test$|callbacks|logger|hydra|trainer\.enable_", key):
            value = OmegaConf.select(cfg, key)
            values[HPARAM_NAMES.get(key, key)] = value if isinstance(value, bool | int | float) else text.strip("'")
    return values


def _accuracy_text(metrics: Mapping[str, Any], stage: str) -> str:
    names = ("map", "f1", "loss") if f"{stage}/map" in metrics else ("acc1", "acc5", "loss")
    return ", ".join(f"{name} {metrics[f'{stage}/{name}']:.4f}" for name in names if f"{stage}/{name}" in metrics)


def _augment_text(cfg: DictConfig) -> str:
    parts = {
        cfg.crop: True,
        "flip": cfg.flip,
        cfg.auto_augment: cfg.auto_augment,
        "color jitter": any(cfg.color_jitter or ()),
        "erase": cfg.random_erase,
    }
    return " + ".join(part for part, enabled in parts.items() if enabled)


def _cache_text(cache: Cache) -> str:
    if cache.mode == "none":
        return "none: files are read in every epoch"
    resize = f", shorter side {cache.resize} pixels" if cache.resize else ""
    persist = f", kept in {cache.persist}" if cache.persist else ""
    return f"{cache.mode}, at most {format_bytes(available_bytes() * cache.budget)} of RAM{resize}{persist}"


def device_summary(trainer: pl.Trainer, cfg: DictConfig) -> str:
    """The number and the name of the devices that a trainer uses, the precision, and what else makes steps fast.

    cfg: the configuration, in which `apply_device_defaults` has replaced `auto`.
    """
    device = trainer.strategy.root_device
    options = {
        "channels last": cfg.channels_last,
        "fused optimizer": cfg.optimizer.get("fused"),
        "TF32": cfg.get("tf32") and device.type == "cuda",
        "cuDNN benchmark": cfg.trainer.benchmark and device.type == "cuda",
    }
    used = "".join(f", {name}" for name, enabled in options.items() if enabled)
    return f"{trainer.world_size} x {device_name(trainer)}, precision {trainer.precision}{used}"


def device_name(trainer: pl.Trainer) -> str:
    """The name of the trainer's device; of a CPU with the number of threads."""
    device = trainer.strategy.root_device
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = f", {plural(torch.get_num_threads(), 'thread')}" if device.type == "cpu" else ""
    return f"{device.type.upper()}{threads}"
