"""Loggers that need a package of their own: Weights & Biases and MLflow."""

import importlib
import logging
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from pytorch_lightning.loggers import MLFlowLogger, WandbLogger

from cnnzoo.errors import UserError


def wandb_logger(save_dir: str, **options: Any) -> WandbLogger:
    """A logger to Weights & Biases; with WANDB_MODE=offline only to `save_dir/wandb`.

    `options` are those of Lightning's `WandbLogger`. Raises UserError if the package is missing, or if there is no
    login.
    """
    package = _import_package("wandb", "Weights & Biases")
    online = os.environ.get("WANDB_MODE", "online").lower() not in ("offline", "dryrun", "disabled")
    if online and not options.get("offline") and not _is_logged_in(package):
        raise UserError(
            "logger=wandb: there is no W&B login on this machine; type 'wandb login', or put WANDB_MODE=offline before "
            "the command"
        )
    finish_wandb()
    Path(save_dir).mkdir(parents=True, exist_ok=True)  # W&B writes to the system's temporary directory if it is missing
    logger = WandbLogger(save_dir=save_dir, **options)
    logger._wandb_init.pop("anonymous", None)  # Lightning always passes it, and W&B always warns of it
    return logger


def finish_wandb() -> None:
    """Finish W&B's current run if there is one; otherwise the next job of a multirun would log to it."""
    package = sys.modules.get("wandb")
    if package is not None and package.run is not None:
        package.finish()


def _is_logged_in(package: ModuleType) -> bool:
    try:
        return bool(package.Api().api_key)
    except package.errors.UsageError:  # newer versions raise if there is no key
        return False


def mlflow_logger(save_dir: str, **options: Any) -> MLFlowLogger:
    """A logger to the server or store in MLFLOW_TRACKING_URI, or to the database `save_dir/mlflow.db` if it is not set.

    `options` are those of Lightning's `MLFlowLogger`. Raises UserError if the package is missing.
    """
    _import_package("mlflow", "MLflow")
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)  # creating a database logs dozens of lines
    logging.getLogger("pytorch_lightning.loggers.mlflow").setLevel(logging.ERROR)  # it warns of every new experiment
    directory = Path(save_dir).absolute()
    directory.mkdir(parents=True, exist_ok=True)
    if not options.get("tracking_uri") and not os.environ.get("MLFLOW_TRACKING_URI"):
        options["tracking_uri"] = f"sqlite:///{directory / 'mlflow.db'}"
        options.setdefault("artifact_location", (directory / "mlflow").as_uri())
    else:
        options["tracking_uri"] = options.get("tracking_uri") or os.environ["MLFLOW_TRACKING_URI"]
    return MLFlowLogger(**options)


def _import_package(name: str, title: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise UserError(f'logger={name}: {title} is not installed; type pip install "cnnzoo[{name}]"') from None
