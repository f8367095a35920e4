"""The training job: resolve the input, build the network, fit, test the best checkpoint, write the metrics."""

import logging
import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.strategies import DDPStrategy, Strategy
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from cnnzoo.callbacks import EMA, CheckpointSaver, Throughput
from cnnzoo.callbacks.tensorboard.hparams import write_hparams
from cnnzoo.data.datamodule import DataModule
from cnnzoo.errors import UserError
from cnnzoo.loggers.remote import finish_wandb
from cnnzoo.models import create_model, info
from cnnzoo.models.factory import config_overrides
from cnnzoo.models.input_spec import InputSpec, resolve_input
from cnnzoo.runtime import distributed
from cnnzoo.runtime.environment import write_environment
from cnnzoo.runtime.failures import failures_as_user_error
from cnnzoo.runtime.files import write_json
from cnnzoo.runtime.formatting import plural
from cnnzoo.runtime.signals import exit_for_signal, handle_signals
from cnnzoo.training.classifier import Classifier
from cnnzoo.training.fit import fit
from cnnzoo.training.resume import prepare_resume
from cnnzoo.training.run_summary import cli_overrides, final_table, hyperparameters, log_table, run_table

log = logging.getLogger(__name__)
for name in ("pytorch_lightning", "lightning_fabric"):
    logging.getLogger(name).setLevel(logging.WARNING)  # the job logs its own table
logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # torch.compile warns if there is no GPU

IGNORED_WARNINGS = (
    ".*does not have many workers.*",  # our loaders have workers of their own
    ".*isinstance\\(treespec, LeafSpec\\).*",
    ".*TensorBoardLogger.*hyperparameters.*",
    ".*Experiment logs directory.*exists and is not empty.*",  # checked before the run
    ".*ended before the epoch ended and your dataloader is not resumable.*",  # it is: the data module saves it
    ".*Checkpoint directory.*exists and is not empty.*",
)
"""Warnings of libraries that the user can do nothing about."""


def seed_everything(seed: int) -> None:
    """Seed the generators of torch, NumPy and Python, which initialize weights and sample dropout."""
    pl.seed_everything(seed, verbose=False)


def ema_callbacks(decay: float | None) -> list[pl.Callback]:
    """The callbacks for `ema=decay`: none, or one `EMA`."""
    return [] if decay is None else [EMA(decay)]


def build_network(cfg: DictConfig, data: DataModule) -> tuple[nn.Module, InputSpec]:
    """Build the network of `cfg.model` for `data`, and set the image size and the channels of `data`.

    Raises UserError if the settings do not fit the network or the data.
    """
    if cfg.num_classes not in (None, data.num_classes):
        names = ", ".join(data.classes[:3]) + (", ..." if data.num_classes > 3 else "")
        raise UserError(
            f"model.num_classes={cfg.num_classes}: data.name={data.name} has {data.num_classes} classes ({names}); "
            "leave model.num_classes out"
        )
    if "target" in cfg:
        from cnnzoo.training.custom import build_custom_network  # here: most runs train a network of the zoo

        return build_custom_network(cfg, data)
    model_info = info(cfg.name)
    if (family := model_info.family) != cfg.family:
        raise UserError(f"model.name={cfg.name}: it is of the family {family}; also type model={family}")
    weights, preprocessing = cfg.weights, None
    if weights is not None:
        from cnnzoo.inference.hub import local_weights
        from cnnzoo.models.weights import published_preprocessing  # here: it imports torchvision's list of weights

        weights = local_weights(weights, key="model.weights")
        preprocessing = published_preprocessing(cfg.name, weights)
    input_spec = resolve_input(
        model_info,
        proposed_size=data.proposed_image_size,
        proposed_channels=data.proposed_channels,
        requested_size=data.requested_image_size,
        requested_channels=data.requested_channels,
        start_size=data.start_size,
        stem=cfg.stem,
        published=preprocessing is not None,
    )
    for note in input_spec.notes:
        log.info("%s", note)
    data.set_input(
        image_size=input_spec.image_size,
        channels=input_spec.channels,
        mean=preprocessing.mean if preprocessing else None,
        std=preprocessing.std if preprocessing else None,
        eval_resize=preprocessing.resize / preprocessing.image_size if preprocessing else None,
    )
    args = OmegaConf.to_container(cfg.args, resolve=True)
    assert isinstance(args, dict)
    net = create_model(
        cfg.name,
        num_classes=data.num_classes,
        in_channels=input_spec.channels,
        weights=weights,
        stem=input_spec.stem,
        **config_overrides(args),
    )
    return net, input_spec


def lower_batch_size(data: DataModule, cfg: DictConfig, world_size: int) -> None:
    """Lower `data.batch_size` and log it if there are fewer training images than one batch for each of the devices.

    The new size is the largest power of two that gives at least four batches, and at least 2. It depends only on the
    number of images and devices, so that a resumed run lowers to the same size.
    """
    train = data.split("train")
    assert train is not None
    images = len(train) // world_size
    if data.batch_size <= images:
        return
    if images:  # otherwise the sampler raises an error
        size = max(min(2, images), 1 << (images // 4).bit_length() >> 1)
        devices = f" for {world_size} devices" if world_size > 1 else ""
        images_text = plural(len(train), "training image")
        log.info("batch size %d -> %d: the data has %s%s", data.batch_size, size, images_text, devices)
        data.batch_size = cfg.data.batch_size = size


def build_strategy(trainer: DictConfig, *, has_frozen_parameters: bool = False) -> str | DictConfig | Strategy:
    """The `strategy` for Lightning's Trainer; `trainer` is the group of the configuration.

    With DDP, gradients are views of the buffers that are exchanged, which saves a copy of them in time and memory.
    DDP's `static_graph` stays off. It would skip the search for unused parameters, which DDP does not do by default,
    and it fails with accumulated gradients (PyTorch pull request 187732).

    has_frozen_parameters: some parameters get no gradients in some epochs, so DDP must search for them.
    """
    strategy: Any = trainer.strategy
    if strategy == "ddp" or (strategy == "auto" and distributed.has_several_ranks(trainer)):
        return DDPStrategy(gradient_as_bucket_view=True, find_unused_parameters=has_frozen_parameters)
    return strategy


def train(
    classifier: Classifier, data: DataModule, trainer: pl.Trainer, input_spec: InputSpec, cfg: DictConfig
) -> float:
    """Fit, test the best checkpoint, write `metrics.json`; returns `cfg.optimized_metric` at the best epoch.

    Without checkpoints (`trainer.fast_dev_run=true`, `callbacks.checkpoint=null`) the final weights are tested. Raises
    `UserError` before the first step if `cfg.optimized_metric` is not a validation metric.
    """
    for pattern in IGNORED_WARNINGS:
        warnings.filterwarnings("ignore", pattern)
    distributed.check_trainer(trainer)
    run_dir = Path(cfg.run_dir)
    start = prepare_resume(run_dir, data, trainer, cfg) if cfg.resume is not None else None
    parameters = sum(p.numel() for p in classifier.net.parameters() if p.requires_grad)
    data.trainer = trainer  # the loader depends on its device and its ranks
    data.resolve_cache()  # and on whether the cache will be decoded
    loader = data.build_loader("train")  # raises for settings that it does not accept; starts no workers
    batches = check_batches(trainer, len(loader))
    log_table(run_table(data, trainer, input_spec, cfg, parameters, loader))
    table = {**cli_overrides(cfg), **hyperparameters(cfg, input_spec, loader.name)}
    with failures_as_user_error(cfg):
        _log_settings(trainer, cfg, table, is_resumed=start is not None)
        if trainer.is_global_zero:
            write_environment(run_dir, is_resumed=cfg.resume is not None)
    log_every_n_steps = min(trainer.log_every_n_steps, batches)  # type: ignore[attr-defined]
    trainer.log_every_n_steps = max(1, log_every_n_steps)  # type: ignore[attr-defined]  # small sets get curves too

    checkpoint, metrics = (None, {}) if start is None else (start[0], start[1]["cnnzoo"]["metrics"])
    try:
        with handle_signals(trainer, run_dir), distributed.supervise_ranks(trainer), failures_as_user_error(cfg):
            stop_signal = fit(classifier, data, trainer, run_dir=run_dir, checkpoint=checkpoint)
            if stop_signal is None:
                return _test_and_report(classifier, data, trainer, cfg, table, metrics)
    except (MisconfigurationException, ModuleNotFoundError) as error:  # of Lightning's trainer and callbacks
        raise UserError(f"trainer: {' '.join(str(error).split())}") from error
    exit_for_signal(stop_signal)


def _log_settings(trainer: pl.Trainer, cfg: DictConfig, table: Mapping[str, Any], *, is_resumed: bool) -> None:
    """Pass the configuration to TensorBoard, once in a run, and the table of settings to the other loggers."""
    lines = OmegaConf.to_yaml(cfg, resolve=True).splitlines()
    for logger in trainer.loggers:
        if not isinstance(logger, TensorBoardLogger):  # it has its own table, written after the test
            logger.log_hyperparams(dict(table))
        elif not is_resumed:
            text = "\n".join(f"    {line}" for line in lines)  # four spaces: verbatim in Markdown
            logger.experiment.add_text("config", text)


def check_batches(trainer: pl.Trainer, loader_batches: int) -> int:
    """The number of training batches of an epoch, at most `loader_batches`.

    Raises UserError if there is none, or if `trainer.val_check_interval` is larger.
    """
    limit = trainer.limit_train_batches  # an int is a number of batches, a float a fraction of them
    batches = min(loader_batches, limit) if isinstance(limit, int) else int(loader_batches * limit)
    if not batches:
        key = "overfit_batches" if trainer.overfit_batches else "limit_train_batches"  # type: ignore[attr-defined]
        least = math.ceil(1000 / loader_batches) / 1000
        raise UserError(f"trainer.{key}={limit}: less than one of the {loader_batches} batches; type {least:g} or more")
    interval = trainer.val_check_interval
    if isinstance(interval, int) and interval > batches and trainer.check_val_every_n_epoch is not None:
        raise UserError(
            f"trainer.val_check_interval={interval}: an epoch has {batches} batches; type a smaller number, or also "
            "trainer.check_val_every_n_epoch=null to count the batches of all epochs"
        )
    return batches


def _test_and_report(
    classifier: Classifier,
    data: DataModule,
    trainer: pl.Trainer,
    cfg: DictConfig,
    table: Mapping[str, Any],
    resumed_metrics: Mapping[str, float],
) -> float:
    """Test the best checkpoint, write `metrics.json`, log the results; returns `cfg.optimized_metric`."""
    run_dir = Path(cfg.run_dir)
    metrics = final_metrics(trainer, resumed_metrics)
    epochs = trainer.current_epoch
    path = selected_checkpoint(trainer, run_dir)
    if path is not None:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        classifier.load_full_state_dict(checkpoint["state_dict"])
        saved = checkpoint["cnnzoo"]
        metrics |= {name: value for name, value in saved["metrics"].items() if name.startswith("val/")}
        classifier.restore_validation(saved)
    if cfg.test and data.has_test:
        trainer.test(classifier, datamodule=data, verbose=False)
        metrics |= {name: float(x) for name, x in trainer.callback_metrics.items() if name.startswith("test/")}

    savers = [callback for callback in trainer.callbacks if isinstance(callback, CheckpointSaver)]  # type: ignore[attr-defined]
    seconds = savers[0].seconds if savers else 0.0
    parameters = sum(p.numel() for p in classifier.net.parameters() if p.requires_grad)
    report: dict[str, Any] = {**metrics, "parameters": parameters, "epochs": epochs, "seconds": round(seconds, 1)}
    if path is not None and path.stem == "best":
        report["best_epoch"] = checkpoint["cnnzoo"]["epochs"]
    for stage, classes in classifier.class_reports(data.classes).items():
        report[f"{stage}/per_class"] = classes
    if not data.has_test:
        report["tested"] = "nothing: the data has no test split"
    if trainer.is_global_zero:
        write_json(run_dir / "metrics.json", report)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                with SummaryWriter(logger.log_dir) as writer:  # the logger has closed its writer
                    write_hparams(writer, table, metrics, first=cli_overrides(cfg), step=trainer.global_step)
        finish_wandb()
        log_table(final_table(report, run_dir, is_custom="target" in cfg.model))
    return metrics.get(cfg.optimized_metric, math.nan)


def selected_checkpoint(trainer: pl.Trainer, run_dir: Path) -> Path | None:
    """The path of `best.ckpt`, else of `last.ckpt`, else None; the same on all ranks.

    Raises UserError on a machine where the run directory of rank 0 is not visible.
    """
    paths = [run_dir / "checkpoints" / f"{name}.ckpt" for name in ("best", "last")]
    path = trainer.strategy.broadcast(next((path for path in paths if path.exists()), None))
    if path is not None and not path.exists():
        raise UserError(f"run_dir={run_dir}: {path} does not exist on this machine; all machines must share run_dir")
    return path


def final_metrics(trainer: pl.Trainer, resumed_metrics: Mapping[str, float]) -> dict[str, float]:
    """The metrics of the last epoch: `train/` and `perf/` over the whole epoch, `val/` at its end.

    `resumed_metrics` are those in the checkpoint of a resumed run. They count if the run had no epoch left to train.
    """
    logged = {**resumed_metrics, **{name: float(value) for name, value in trainer.callback_metrics.items()}}
    metrics = {
        f"train/{name}": logged[f"train/{name}_epoch"] for name in ("loss", "acc1") if f"train/{name}_epoch" in logged
    }
    metrics |= {name: value for name, value in logged.items() if name.startswith(("val/", "perf/"))}
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, Throughput) and callback.images:
            metrics["perf/images_per_second"] = callback.epoch_images_per_second
            metrics["perf/data_wait"] = callback.epoch_data_wait or 0.0
    return metrics
