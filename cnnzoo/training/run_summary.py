"""What a run says of itself: a table before it starts, the outcome and the next commands after it, `metrics.json`."""

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
from cnnzoo.data.loaders.auto import resolve_auto_loader
from cnnzoo.data.loaders.dali_loader import check_dali, resolve_threads
from cnnzoo.data.loaders.torch_loader import count_workers
from cnnzoo.data.split import Split
from cnnzoo.models.input_spec import InputSpec
from cnnzoo.runtime.files import display_path
from cnnzoo.runtime.formatting import format_bytes

log = logging.getLogger(__name__)


def log_table(rows: Mapping[str, str]) -> None:
    """Log a table of two columns."""
    width = max(map(len, rows))
    for name, text in rows.items():
        log.info("%s  %s", name.ljust(width), text)


def run_table(
    data: DataModule, trainer: pl.Trainer, input_spec: InputSpec, cfg: DictConfig, parameters: int, loader: str
) -> dict[str, str]:
    """What is about to run; `loader` as `loader_of` says."""
    splits = {name: data.split(name) for name in ("train", "val", "test")}
    sizes = [f"{len(split):,} {name}" for name, split in splits.items() if split is not None]
    train = splits["train"]
    assert train is not None
    each = f" on each of {trainer.world_size} devices" if trainer.world_size > 1 else ""
    return {
        "model": f"{cfg.model.name} ({input_spec.stem} stem), {parameters:,} parameters",
        "data": f"{data.name}: {data.num_classes} classes, {', '.join(sizes)} images",
        "input": f"{input_spec.image_size} x {input_spec.image_size} pixels, {input_spec.channels} "
        f"channel{'s' if input_spec.channels > 1 else ''}, batches of {data.batch_size}{each}",
        "device": device_summary(trainer),
        "loader": _loader_text(loader, cfg.loader, train, trainer),
        "cache": "not needed: the set is in memory" if train.paths is None else _cache_text(data.cache),
        "run": display_path(Path(cfg.run_dir)),
    }


def final_table(metrics: Mapping[str, Any], run_dir: Path) -> dict[str, str]:
    """What came out, and what to type next."""
    rows = {}
    if "val/acc1" in metrics:
        epoch = f" (epoch {metrics['best_epoch']}, the best)" if "best_epoch" in metrics else ""
        rows["validation"] = _accuracy_text(metrics, "val") + epoch
    if "test/acc1" in metrics:
        rows["test"] = _accuracy_text(metrics, "test")
    rows["time"] = f"{metrics['seconds']:,.0f} s for {metrics['epochs']} epochs"
    where = display_path(run_dir)
    rows["run"] = where
    top = Path(where).parts[0] if not Path(where).is_absolute() else where
    rows["look at it"] = f"tensorboard --logdir {shlex.quote(top)}"
    best = run_dir / "checkpoints" / "best.ckpt"
    if best.exists():
        weights = shlex.quote(f"model.weights={where}/checkpoints/best.ckpt")
        rows["use it"] = f"python -c {shlex.quote(f'import cnnzoo; net = cnnzoo.load_run({where!r})')}"
        rows["start from it"] = f"{rerun_command(run_dir)} {weights}"
    return rows


def rerun_command(run_dir: Path) -> str:
    """The command that gave this run, less what must differ in the next one."""
    words = [str(word) for word in OmegaConf.load(run_dir / ".hydra" / "overrides.yaml")]
    words = [re.sub(r"^([\w.]+=)'([^'\\]*)'$", r"\1\2", word) for word in words]  # paths, as they were typed
    keep = [shlex.quote(word) for word in words if not word.startswith(("run_dir=", "model.weights=", "sweep="))]
    return " ".join(["python", "train.py", *keep])


def hyperparameters(cfg: DictConfig, input_spec: InputSpec, loader: str) -> dict[str, bool | str | float | int]:
    """What sets one run apart from another, flat, for TensorBoard's table."""
    optimizer, scheduler = cfg.optimizer._target_.split(".")[-1], cfg.scheduler._target_.split(".")[-1]
    keep = {
        "model": cfg.model.name,
        "data": cfg.data.name,
        "optimizer": optimizer,
        "optimizer.lr": cfg.optimizer.lr,
        "optimizer.weight_decay": cfg.optimizer.weight_decay,
        "scheduler": scheduler,
        "epochs": cfg.trainer.max_epochs,
        "batch_size": cfg.data.batch_size,
        "image_size": input_spec.image_size,
        "stem": input_spec.stem,
        "augment": _augment_text(cfg.augment),
        "loader": loader,
        "label_smoothing": cfg.label_smoothing,
        "precision": str(cfg.trainer.precision or "32-true"),
        "seed": cfg.seed,
    }
    return {name: value for name, value in keep.items() if value is not None}


HPARAM_NAMES = {
    "model.name": "model",
    "model.stem": "stem",
    "data.batch_size": "batch_size",
    "data.image_size": "image_size",
    "trainer.max_epochs": "epochs",
    "trainer.precision": "precision",
}
"""Keys that have another name among the hyperparameters."""


def cli_overrides(cfg: DictConfig) -> dict[str, bool | str | float | int]:
    """What the command line set, as hyperparameters: the keys a sweep varies are among them.

    Keys that choose where a run goes and what is shown of it are left out.
    """
    found: dict[str, bool | str | float | int] = {}
    words = Path(cfg.run_dir) / ".hydra" / "overrides.yaml"
    if not words.exists():  # on a rank that did not compose the run
        return found
    for word in map(str, OmegaConf.load(words)):
        key, _, text = word.lstrip("+").partition("=")
        if text and not re.match(r"run_dir|test$|callbacks|logger|hydra|trainer\.enable_", key):
            value = OmegaConf.select(cfg, key)
            found[HPARAM_NAMES.get(key, key)] = value if isinstance(value, bool | int | float) else text.strip("'")
    return found


def _accuracy_text(metrics: Mapping[str, Any], stage: str) -> str:
    return (
        f"acc1 {metrics[f'{stage}/acc1']:.4f}, acc5 {metrics[f'{stage}/acc5']:.4f}, loss {metrics[f'{stage}/loss']:.4f}"
    )


def _augment_text(cfg: DictConfig) -> str:
    parts = {
        cfg.crop: True,
        "flip": cfg.flip,
        cfg.auto_augment: cfg.auto_augment,
        "color jitter": any(cfg.color_jitter or ()),
        "erase": cfg.random_erase,
    }
    return " + ".join(part for part, wanted in parts.items() if wanted)


def loader_name(data: DataModule, trainer: pl.Trainer, cfg: DictConfig) -> str:
    """What `cfg.loader` is, or comes to: "dali" or "torch". Raises UserError where DALI cannot be used."""
    train, device = data.split("train"), trainer.strategy.root_device
    assert train is not None
    target = cfg.loader._target_.split(".")[-1]
    if target == "auto_loader":
        return resolve_auto_loader(train, data.augment, device, cfg.loader.kind)
    if target == "DaliLoader":
        check_dali(data.augment, device)
        return "dali"
    return "torch"


def _loader_text(loader: str, cfg: DictConfig, train: Split, trainer: pl.Trainer) -> str:
    if loader == "dali":
        where = "on the GPU" if trainer.strategy.root_device.type == "cuda" else "on the CPU"
        return f"dali, {resolve_threads(cfg.workers)} threads, decoding {where}"
    workers = count_workers(cfg.workers, train)
    kind = "processes" if cfg.kind == "auto" else cfg.kind
    return f"torch, {workers} {kind}" if workers else "torch, in the training process"


def _cache_text(cache: Cache) -> str:
    if cache.mode == "none":
        return "none: files are read in every epoch"
    resize = f", shorter side {cache.resize} pixels" if cache.resize else ""
    persist = f", kept in {cache.persist}" if cache.persist else ""
    return f"{cache.mode}, at most {format_bytes(available_bytes() * cache.budget)} of RAM{resize}{persist}"


def device_summary(trainer: pl.Trainer) -> str:
    """The device that a trainer trains on, how many of it, and the precision."""
    device = trainer.strategy.root_device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper()
    threads = f", {torch.get_num_threads()} threads" if device.type == "cpu" else ""
    return f"{trainer.world_size} x {name}{threads}, precision {trainer.precision}"
