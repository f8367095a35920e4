"""The settings of an evaluation: checked before torch is imported, and combined with those of the run."""

import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from cnnzoo.checks import check_bool, check_choice, create_directory
from cnnzoo.errors import UserError
from cnnzoo.training.setting_checks import RUN_CHECKS, TRAINER_CHECKS

DEFAULTS = {"test_time_flip": False, "compile": False, "channels_last": "auto", "tf32": "auto"}
"""The values of keys that are null, without a run."""
RUN_TRAINER_KEYS = ("precision", "benchmark", "deterministic")
"""Keys of `trainer` for which the run's value is used."""
NETWORK_KEYS = ("image_size", "fit", "channels", "bits", "start_size", "balance", "augment", "cache")
"""Keys of `data` that an evaluation does not use."""
SAFE_TARGETS = (
    "cnnzoo.data.datamodule.DataModule",
    *(
        f"cnnzoo.data.{name}"
        for name in (
            *(
                "CIFAR10",
                "CIFAR100",
                "MNIST",
                "Digits",
                "DigitsMultilabel",
                "CSVFile",
                "FashionMNIST",
                "HuggingFaceDataset",
                "ImageFolder",
                "ImageNet",
                "Imagenette",
                "ParquetFiles",
                "WebDataset",
            ),
            *("Augment", "Cache", "DaliLoader", "Synthetic", "TorchLoader", "auto_loader"),
        )
    ),
)
"""The classes that the configuration of a run may name: other names could run any code."""


def check_settings(cfg: DictConfig, typed: Collection[str]) -> None:
    """Raise UserError for a value of the wrong type or out of range, and for keys that an evaluation does not use.

    typed: the keys that the user has set.
    """
    if cfg.checkpoint is not None:
        check_choice("checkpoint", cfg.checkpoint, ("best", "last"))
    if cfg.split is not None:
        check_choice("split", cfg.split, ("train", "val", "test", "all"))
    for key in ("report", "trust_code"):
        check_bool(key, cfg[key])
    if cfg.report and cfg.out is None:
        raise UserError("report=true: the report is written to the directory out=DIR; type one")
    values: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    for name in DEFAULTS:
        if values[name] is not None:
            RUN_CHECKS[name](name, values[name])
    for name, check in TRAINER_CHECKS.items():
        if name in values["trainer"]:
            check(f"trainer.{name}", values["trainer"][name])
    if cfg.trainer.devices not in (1, "auto") or cfg.trainer.num_nodes != 1 or cfg.trainer.strategy != "auto":
        raise UserError("trainer: one device evaluates; leave trainer.devices, num_nodes and strategy out")
    if cfg.trainer.barebones or cfg.trainer.fast_dev_run:
        key = "barebones" if cfg.trainer.barebones else "fast_dev_run"
        raise UserError(f"trainer.{key}: not used in an evaluation; type trainer.limit_test_batches=2 for a short one")
    for key in typed:
        group, _, name = key.partition(".")
        if group == "augment" or (group == "data" and name.partition(".")[0] in NETWORK_KEYS):
            raise UserError(f"{key}: the images are processed as the network was trained; leave {key} out")
    if "data" in values and "_target_" not in values["data"] and cfg.run is None:
        raise UserError(
            "data: no images to evaluate on; type data=imagenet data.root=DIR, data=folder data.root=DIR, or run=DIR "
            "for those of a run"
        )


def create_out(out: Path) -> list[Path]:
    """Create the directory `out` for the results; returns the directories that were missing, the innermost first.

    Raises UserError if it has files or cannot be created or written.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"out={out}: {'has files already' if out.is_dir() else 'is a file'}; type a new directory")
    missing = [path for path in (out, *out.parents) if not path.exists()]
    create_directory("out", out)
    if not os.access(out, os.W_OK | os.X_OK):
        raise UserError(f"out={out}: the directory is not writable; type another one")
    return missing


def combined_config(run_dir: Path | None, cfg: DictConfig, typed: Collection[str]) -> DictConfig:
    """The configuration to evaluate one network with: what the user typed, else the run's value, else the default.

    run_dir: of the network's run, None for others.
    cfg: the configuration of the job.
    typed: the keys and groups that the user has set.

    Returns a configuration with the keys `data`, `trainer` and those of `DEFAULTS`. Raises UserError if the run's
    configuration cannot be read, or names a class that is no part of cnnzoo.
    """
    settings = OmegaConf.create({name: cfg[name] for name in DEFAULTS})
    run = None if run_dir is None else read_run_config(run_dir)
    trainer = cfg.trainer.copy()
    if run is not None:
        for name in RUN_TRAINER_KEYS:
            if f"trainer.{name}" not in typed and name in run.trainer:
                trainer[name] = run.trainer[name]
        if run.trainer.get("accelerator") == "cpu" and not {"trainer", "trainer.accelerator"} & set(typed):
            trainer.accelerator = "cpu"
    for name, default in DEFAULTS.items():
        if settings[name] is None:
            settings[name] = default if run is None else run.get(name, default)
    if "data" in typed or run is None:
        data = OmegaConf.to_container(cfg.data, resolve=True)
    else:
        data = _run_data(run, cfg, typed, str(run_dir))
    with open_dict(settings):
        settings.trainer = OmegaConf.to_container(trainer, resolve=True)
        settings.data = data
        settings.optimizer = {"_target_": "torch.optim.SGD"}  # `apply_device_defaults` reads it
    return settings


def _run_data(run: DictConfig, cfg: DictConfig, typed: Collection[str], label: str) -> dict[str, Any]:
    """The node `data` of a run's configuration, with the values that the user typed."""
    if "loader" in typed:
        run.loader = cfg.loader
    for key in typed:
        if key.startswith(("loader.", "data.")):
            OmegaConf.update(run, key, OmegaConf.select(cfg, key), force_add=True)
    try:
        data: dict[str, Any] = OmegaConf.to_container(run.data, resolve=True)  # type: ignore[assignment]
    except OmegaConfBaseException as error:
        raise UserError(f"run={label}: its configuration cannot be read: {str(error).splitlines()[0]}") from error
    for target in _targets(data):
        if target not in SAFE_TARGETS and not cfg.trust_code:
            raise UserError(
                f"run={label}: its data uses {target}, which is not one of cnnzoo's data sets, so it is not called; "
                "type trust_code=true if you trust it, or data=... to choose the images"
            )
    return data


def read_run_config(run_dir: Path) -> DictConfig:
    """The configuration that a run was started with."""
    path = run_dir / ".hydra" / "config.yaml"
    try:
        run = OmegaConf.load(path)
    except FileNotFoundError:
        raise UserError(f"run={run_dir}: {path} is missing; type data=... to choose the images") from None
    except (OSError, YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"run={run_dir}: {path} cannot be read: {str(error).splitlines()[0]}") from error
    if not isinstance(run, DictConfig) or not {"data", "trainer", "loader"} <= set(run):
        raise UserError(f"run={run_dir}: {path} is not the configuration of a training; type data=...")
    OmegaConf.set_struct(run, False)
    return run


def _targets(node: Any) -> Iterator[str]:
    """Each class that instantiating `node` would call."""
    values = list(node.values()) if isinstance(node, Mapping) else list(node) if isinstance(node, list) else []
    if isinstance(node, Mapping) and "_target_" in node:
        yield str(node["_target_"])
    for value in values:
        yield from _targets(value)
