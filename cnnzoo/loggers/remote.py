"""The loggers that need a package which is not installed with cnnzoo: Weights & Biases, MLflow."""

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
    """A logger to Weights & Biases, or to `save_dir/wandb` alone with WANDB_MODE=offline. `options` are its own.

    Raises UserError where the package is missing, or nobody is logged in.
    """
    package = _import_package("wandb", "Weights & Biases")
    sends = os.environ.get("WANDB_MODE", "online").lower() not in ("offline", "dryrun", "disabled")
    if sends and not options.get("offline") and not _is_logged_in(package):
        raise UserError(
            "logger=wandb: nobody is logged in here: type 'wandb login', or put WANDB_MODE=offline ahead of the command"
        )
    finish_wandb()
    Path(save_dir).mkdir(parents=True, exist_ok=True)  # where it lacks, W&B writes to the system's temporary directory
    logger = WandbLogger(save_dir=save_dir, **options)
    logger._wandb_init.pop("anonymous", None)  # Lightning's, of which W&B warns whatever its value
    return logger


def finish_wandb() -> None:
    """End W&B's run, if there is one: the next job of a multirun would go on with it."""
    package = sys.modules.get("wandb")
    if package is not None and package.run is not None:
        package.finish()


def _is_logged_in(package: ModuleType) -> bool:
    try:
        return bool(package.Api().api_key)
    except package.errors.UsageError:  # as newer versions say that there is no key
        return False


def mlflow_logger(save_dir: str, **options: Any) -> MLFlowLogger:
    """A logger to the server or store of MLFLOW_TRACKING_URI, else to the database `save_dir/mlflow.db`.

    `options` are its own. Raises UserError where the package is missing.
    """
    _import_package("mlflow", "MLflow")
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)  # a database is made: dozens of lines
    logging.getLogger("pytorch_lightning.loggers.mlflow").setLevel(logging.ERROR)  # an experiment is made: as it should
    folder = Path(save_dir).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    if not options.get("tracking_uri") and not os.environ.get("MLFLOW_TRACKING_URI"):
        options["tracking_uri"] = f"sqlite:///{folder / 'mlflow.db'}"
        options.setdefault("artifact_location", (folder / "mlflow").as_uri())
    else:
        options["tracking_uri"] = options.get("tracking_uri") or os.environ["MLFLOW_TRACKING_URI"]
    return MLFlowLogger(**options)


def _import_package(name: str, title: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise UserError(f"logger={name} needs {title}, which is not installed: type pip install {name}") from None
