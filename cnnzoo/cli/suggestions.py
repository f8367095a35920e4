"""What to type instead of a key that does not exist."""

from collections.abc import Iterator
from difflib import SequenceMatcher
from typing import Any

from omegaconf import DictConfig

HABITS = {
    "a": "model.name=",
    "allow_tf32": "tf32=",
    "amp": "trainer.precision=16-mixed",
    "arch": "model.name=",
    "architecture": "model.name=",
    "aug": "augment=",
    "augmentation": "augment=",
    "auto_lr_find": "tune=lr",
    "auto_scale_batch_size": "tune=batch_size",
    "b": "data.batch_size=",
    "backbone": "model.name=",
    "batch": "data.batch_size=",
    "batch_size": "data.batch_size=",
    "benchmark": "trainer.benchmark=",
    "bf16": "trainer.precision=bf16-mixed",
    "bs": "data.batch_size=",
    "cache": "data.cache.mode=",
    "checkpoint": "resume=",
    "ckpt": "resume=",
    "ckpt_path": "resume=",
    "clip_grad": "trainer.gradient_clip_val=",
    "cpu": "trainer=cpu",
    "cudnn_benchmark": "trainer.benchmark=",
    "data.dir": "data.root=",
    "data_dir": "data.root=",
    "data_path": "data.root=",
    "data_root": "data.root=",
    "datadir": "data.root=",
    "dataset": "data=",
    "device": "trainer.accelerator=",
    "devices": "trainer.devices=",
    "drop": "+model.args.dropout=",
    "dropout": "+model.args.dropout=",
    "e": "trainer.max_epochs=",
    "early_stopping": "callbacks.early_stopping.patience=",
    "epoch": "trainer.max_epochs=",
    "epochs": "trainer.max_epochs=",
    "fit": "data.fit=",
    "fp16": "trainer.precision=16-mixed",
    "fused": "optimizer.fused=",
    "gpu": "trainer=gpu",
    "gpus": "trainer.devices=",
    "grad_clip": "trainer.gradient_clip_val=",
    "image_size": "data.image_size=",
    "img_size": "data.image_size=",
    "input_size": "data.image_size=",
    "j": "loader.workers=",
    "jobs": "loader.workers=",
    "learning_rate": "optimizer.lr=",
    "log_dir": "run_dir=",
    "logdir": "run_dir=",
    "lr": "optimizer.lr=",
    "lr_find": "tune=lr",
    "lr_finder": "tune=lr",
    "max_epochs": "trainer.max_epochs=",
    "mom": "optimizer.momentum=",
    "momentum": "optimizer.momentum=",
    "n_epochs": "trainer.max_epochs=",
    "name": "model.name=",
    "net": "model=",
    "network": "model=",
    "num_epochs": "trainer.max_epochs=",
    "num_workers": "loader.workers=",
    "o": "run_dir=",
    "opt": "optimizer=",
    "optim": "optimizer=",
    "out": "run_dir=",
    "outdir": "run_dir=",
    "output": "run_dir=",
    "output_dir": "run_dir=",
    "path": "data.root=",
    "patience": "callbacks.early_stopping.patience=",
    "precision": "trainer.precision=",
    "pretrained": "model.weights=DEFAULT",
    "r": "resume=",
    "root": "data.root=",
    "save_dir": "run_dir=",
    "sched": "scheduler=",
    "size": "data.image_size=",
    "smoothing": "label_smoothing=",
    "stem": "model.stem=",
    "target": "model=custom",
    "tensorboard": "logger=tensorboard",
    "torch_compile": "compile=",
    "wandb": "logger=wandb",
    "warmup": "scheduler.warmup_epochs=",
    "warmup_epochs": "scheduler.warmup_epochs=",
    "wd": "optimizer.weight_decay=",
    "weight_decay": "optimizer.weight_decay=",
    "weights": "model.weights=",
    "workers": "loader.workers=",
}
"""Names that other training scripts use -> the override that does the same; the value follows a final `=`."""


CHOICE_HABITS = {
    ("data", "huggingface"): "hf",
    ("data", "tar"): "webdataset",
    ("data", "tsv"): "csv",
    ("data", "wds"): "webdataset",
    ("scheduler", "none"): "constant",
    ("scheduler", "cosineannealing"): "cosine",
    ("trainer", "cuda"): "gpu",
    ("trainer", "auto"): "default",
}
"""(group, name) -> the choice that other programs call so."""


def suggest_override(name: str, value: str = "") -> str | None:
    """The override for a setting's name in other training scripts: ("epochs", "5") -> "trainer.max_epochs=5"."""
    override = HABITS.get(name.lower().replace("-", "_"))
    if override is None or not override.endswith("="):
        return override
    return override + (value or "...")


def did_you_mean(key: str, cfg: DictConfig, groups: list[str], *, value: str = "", list_command: str) -> str:
    """The end of the message about an unknown key: similar keys, or the command that lists all keys.

    Keys are also compared by their last parts alone, so that `scheduler.warmup` suggests `scheduler.warmup_epochs`.

    cfg: the configuration, whose keys are suggested.
    groups: the config groups, which are suggested as well.
    value: what the user set the key to.
    list_command: the command that lists all keys.
    """
    candidates = {name for name in (*_all_keys(cfg), *groups) if ".recipe" not in name}  # set by other keys
    for name in (key, key.rpartition(".")[2]):
        override = suggest_override(name, value) or ""
        for habit in (override, override.partition(".")[2]):  # data.image_size= is image_size= in another job
            if habit.lstrip("+").partition("=")[0] in {*candidates, "model.args.dropout"}:
                return f": type {habit}"

    def similarity(candidate: str) -> float:
        by_key = SequenceMatcher(None, key, candidate).ratio()
        return max(by_key, 0.85 * SequenceMatcher(None, key.split(".")[-1], candidate.split(".")[-1]).ratio())

    best = sorted(candidates, key=lambda name: (-similarity(name), name))[:3]
    similar = [name for name in best if similarity(name) >= max(0.65, similarity(best[0]) - 0.15)]
    return f": did you mean {', '.join(similar)}?" if similar else f"; {list_command} lists all keys"


def _all_keys(cfg: DictConfig, prefix: str = "") -> Iterator[str]:
    """Every dotted key of the configuration. Interpolations are not followed, so each key occurs once."""
    for name in map(str, cfg):
        node: Any = cfg._get_node(name)
        if not name.startswith("_"):
            yield f"{prefix}{name}"
            if isinstance(node, DictConfig) and not node._is_interpolation():
                yield from _all_keys(node, f"{prefix}{name}.")
