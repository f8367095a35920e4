"""What a run says of itself: a table before it starts, the outcome and the next commands after it, `metrics.json`."""

import json
import logging
import os
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf

from cnnzoo.data.auto import chosen
from cnnzoo.data.cache import Cache
from cnnzoo.data.dali_loader import check, count_threads
from cnnzoo.data.datamodule import DataModule
from cnnzoo.data.filling import in_bytes
from cnnzoo.data.memory import available
from cnnzoo.data.split import Split
from cnnzoo.data.torch_loader import count_workers
from cnnzoo.settle import Settled

log = logging.getLogger(__name__)


def tell(rows: Mapping[str, str]) -> None:
    """Log a table of two columns."""
    width = max(map(len, rows))
    for name, text in rows.items():
        log.info("%s  %s", name.ljust(width), text)


def describe(
    data: DataModule, trainer: pl.Trainer, settled: Settled, cfg: DictConfig, parameters: int, loader: str
) -> dict[str, str]:
    """What is about to run; `loader` as `loader_of` says."""
    splits = {name: data.split(name) for name in ("train", "val", "test")}
    sizes = [f"{len(split):,} {name}" for name, split in splits.items() if split is not None]
    train = splits["train"]
    assert train is not None
    each = f" on each of {trainer.world_size} devices" if trainer.world_size > 1 else ""
    return {
        "model": f"{cfg.model.name} ({settled.stem} stem), {parameters:,} parameters",
        "data": f"{data.name}: {data.num_classes} classes, {', '.join(sizes)} images",
        "input": f"{settled.image_size} x {settled.image_size} pixels, {settled.channels} "
        f"channel{'s' if settled.channels > 1 else ''}, batches of {data.batch_size}{each}",
        "device": device_of(trainer),
        "loader": _loader(loader, cfg.loader, train, trainer),
        "cache": "not needed: the set is in memory" if train.paths is None else _cache(data.cache),
        "run": shown(Path(cfg.run_dir)),
    }


def result(metrics: Mapping[str, Any], run_dir: Path) -> dict[str, str]:
    """What came out, and what to type next."""
    rows = {}
    if "val/acc1" in metrics:
        epoch = f" (epoch {metrics['best_epoch']}, the best)" if "best_epoch" in metrics else ""
        rows["validation"] = _accuracies(metrics, "val") + epoch
    if "test/acc1" in metrics:
        rows["test"] = _accuracies(metrics, "test")
    rows["time"] = f"{metrics['seconds']:,.0f} s for {metrics['epochs']} epochs"
    where = shown(run_dir)
    rows["run"] = where
    top = Path(where).parts[0] if not Path(where).is_absolute() else where
    rows["look at it"] = f"tensorboard --logdir {shlex.quote(top)}"
    best = run_dir / "checkpoints" / "best.ckpt"
    if best.exists():
        weights = shlex.quote(f"model.weights={where}/checkpoints/best.ckpt")
        rows["use it"] = f"python -c {shlex.quote(f'import cnnzoo; net = cnnzoo.load_run({where!r})')}"
        rows["start from it"] = f"{once_more(run_dir)} {weights}"
    return rows


def once_more(run_dir: Path) -> str:
    """The command that gave this run, less what must differ in the next one."""
    words = [str(word) for word in OmegaConf.load(run_dir / ".hydra" / "overrides.yaml")]
    words = [re.sub(r"^([\w.]+=)'([^'\\]*)'$", r"\1\2", word) for word in words]  # paths, as they were typed
    keep = [shlex.quote(word) for word in words if not word.startswith(("run_dir=", "model.weights=", "sweep="))]
    return " ".join(["python", "train.py", *keep])


def hyperparameters(cfg: DictConfig, settled: Settled, loader: str) -> dict[str, bool | str | float | int]:
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
        "image_size": settled.image_size,
        "stem": settled.stem,
        "augment": _augment(cfg.augment),
        "loader": loader,
        "label_smoothing": cfg.label_smoothing,
        "precision": str(cfg.trainer.precision or "32-true"),
        "seed": cfg.seed,
    }
    return {name: value for name, value in keep.items() if value is not None}


IN_TABLE = {
    "model.name": "model",
    "model.stem": "stem",
    "data.batch_size": "batch_size",
    "data.image_size": "image_size",
    "trainer.max_epochs": "epochs",
    "trainer.precision": "precision",
}
"""Keys that have another name among the hyperparameters."""


def typed(cfg: DictConfig) -> dict[str, bool | str | float | int]:
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
            found[IN_TABLE.get(key, key)] = value if isinstance(value, bool | int | float) else text.strip("'")
    return found


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write the file whole or not at all."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def shown(path: Path) -> str:
    """The path as a person would type it: relative to here where it lies below."""
    path = path.resolve()
    here = Path.cwd().resolve()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def _accuracies(metrics: Mapping[str, Any], stage: str) -> str:
    return (
        f"acc1 {metrics[f'{stage}/acc1']:.4f}, acc5 {metrics[f'{stage}/acc5']:.4f}, loss {metrics[f'{stage}/loss']:.4f}"
    )


def _augment(cfg: DictConfig) -> str:
    parts = {
        cfg.crop: True,
        "flip": cfg.flip,
        cfg.auto: cfg.auto,
        "color jitter": any(cfg.color_jitter or ()),
        "erase": cfg.erase,
    }
    return " + ".join(part for part, wanted in parts.items() if wanted)


def loader_of(data: DataModule, trainer: pl.Trainer, cfg: DictConfig) -> str:
    """What `cfg.loader` is, or comes to: "dali" or "torch". Raises UserError where DALI cannot be used."""
    train, device = data.split("train"), trainer.strategy.root_device
    assert train is not None
    target = cfg.loader._target_.split(".")[-1]
    if target == "auto_loader":
        return chosen(train, data.augment, device, cfg.loader.kind)
    if target == "DaliLoader":
        check(data.augment, device)
        return "dali"
    return "torch"


def _loader(loader: str, cfg: DictConfig, train: Split, trainer: pl.Trainer) -> str:
    if loader == "dali":
        where = "on the GPU" if trainer.strategy.root_device.type == "cuda" else "on the CPU"
        return f"dali, {count_threads(cfg.workers)} threads, decoding {where}"
    workers = count_workers(cfg.workers, train)
    kind = "processes" if cfg.kind == "auto" else cfg.kind
    return f"torch, {workers} {kind}" if workers else "torch, in the training process"


def _cache(cache: Cache) -> str:
    if cache.mode == "none":
        return "none: files are read in every epoch"
    resize = f", shorter side {cache.resize} pixels" if cache.resize else ""
    persist = f", kept in {cache.persist}" if cache.persist else ""
    return f"{cache.mode}, at most {in_bytes(available() * cache.budget)} of RAM{resize}{persist}"


def device_of(trainer: pl.Trainer) -> str:
    """The device that a trainer trains on, how many of it, and the precision."""
    device = trainer.strategy.root_device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper()
    threads = f", {torch.get_num_threads()} threads" if device.type == "cpu" else ""
    return f"{trainer.world_size} x {name}{threads}, precision {trainer.precision}"
