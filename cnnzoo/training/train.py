"""The main job: settle the input, build the network, fit, test the best checkpoint, write down what came out."""

import logging
import math
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.loggers import TensorBoardLogger
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.tensorboard import SummaryWriter

from cnnzoo.callbacks import EMA, CheckpointSaver, Throughput
from cnnzoo.callbacks.tensorboard.hparams import write_hparams
from cnnzoo.data.datamodule import DataModule
from cnnzoo.errors import UserError
from cnnzoo.loggers.remote import finish_wandb
from cnnzoo.models import create_model, info
from cnnzoo.models.input_spec import InputSpec, resolve_input
from cnnzoo.runtime import distributed
from cnnzoo.runtime.failures import disk_errors_as_user_error, oom_as_user_error
from cnnzoo.runtime.files import write_json
from cnnzoo.runtime.signals import handle_signals
from cnnzoo.training.classifier import Classifier
from cnnzoo.training.fit import fit
from cnnzoo.training.resume import prepare_resume
from cnnzoo.training.run_summary import cli_overrides, final_table, hyperparameters, loader_name, log_table, run_table

log = logging.getLogger(__name__)
for name in ("pytorch_lightning", "lightning_fabric"):
    logging.getLogger(name).setLevel(logging.WARNING)  # the job says what runs, and on what, in its own words
logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # that torch.compile finds no GPU

IGNORED_WARNINGS = (
    ".*does not have many workers.*",  # the loader's own doing
    ".*isinstance\\(treespec, LeafSpec\\).*",
    ".*TensorBoardLogger.*hyperparameters.*",
    ".*Experiment logs directory.*exists and is not empty.*",  # the run directory is ours, and checked
    ".*ended before the epoch ended and your dataloader is not resumable.*",  # it is: the data module has its position
    ".*Checkpoint directory.*exists and is not empty.*",
)
"""Warnings of the libraries about what the person who trains can do nothing about."""


def seed_everything(seed: int) -> None:
    """Seed the generators of torch, NumPy and Python, which weights and dropout draw from."""
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**32:
        raise UserError(f"seed={seed}: a whole number from 0 to {2**32 - 1}")
    pl.seed_everything(seed, verbose=False)


def ema_callbacks(decay: float | None) -> list[pl.Callback]:
    """What `ema=` asks for."""
    return [] if decay is None else [EMA(decay)]


def build_network(cfg: DictConfig, data: DataModule) -> tuple[nn.Module, InputSpec]:
    """The network of `cfg.model` for this data, whose input it settles: size, channels, stem and classes."""
    facts = info(cfg.name)
    if facts.family != cfg.family:
        raise UserError(f"model.name={cfg.name} is of the family {facts.family}: type model={facts.family} as well")
    if cfg.num_classes not in (None, data.num_classes):
        names = ", ".join(data.classes[:3]) + (", ..." if data.num_classes > 3 else "")
        raise UserError(
            f"model.num_classes={cfg.num_classes}: data.name={data.name} has {data.num_classes} classes ({names}); "
            "leave model.num_classes out"
        )
    published = None
    if cfg.weights is not None:
        from cnnzoo.models.weights import preprocessing  # here: it loads torchvision's list of weights

        published = preprocessing(cfg.name, cfg.weights)
    input_spec = resolve_input(
        facts,
        proposed_size=data.proposed_image_size,
        proposed_channels=data.proposed_channels,
        requested_size=data.image_size,
        requested_channels=data.channels,
        stem=cfg.stem,
        published=published is not None,
    )
    for note in input_spec.notes:
        log.info("%s", note)
    data.set_input(
        image_size=input_spec.image_size,
        channels=input_spec.channels,
        mean=published.mean if published else None,
        std=published.std if published else None,
        eval_resize=published.resize / published.image_size if published else None,
    )
    args = OmegaConf.to_container(cfg.args, resolve=True)
    assert isinstance(args, dict)
    try:
        net = create_model(
            cfg.name,
            num_classes=data.num_classes,
            in_channels=input_spec.channels,
            weights=cfg.weights,
            stem=input_spec.stem,
            **{str(name): value for name, value in args.items()},
        )
    except (TypeError, ValueError) as error:  # a value of model.args that the network's layers refuse
        raise UserError(f"model.args={args}: {error}") from error
    return net, input_spec


def build_classifier(
    net: nn.Module,
    input_spec: InputSpec,
    data: DataModule,
    *,
    optimizer: Callable[..., Optimizer],
    scheduler: Callable[..., LRScheduler] | None,
    cfg: DictConfig,
) -> Classifier:
    """The network with all that training it takes, compiled in place if asked for."""
    aux_weight = cfg.model.get("aux_weight", 0.0) if cfg.model.args.get("aux_logits") else 0.0
    if cfg.compile:
        net.compile()
        if aux_weight:
            net.forward_with_aux = torch.compile(net.forward_with_aux)  # type: ignore[assignment, arg-type]
    return Classifier(
        net,
        optimizer=optimizer,
        scheduler=scheduler,
        label_smoothing=cfg.label_smoothing,
        aux_weight=aux_weight,
        channels_last=cfg.channels_last,
        metadata={
            "model": dict(net.arguments),  # type: ignore[arg-type]
            "data": data.name,
            "classes": list(data.classes),
            "preprocess": data.preprocess,
        },
    )


def train(
    classifier: Classifier, data: DataModule, trainer: pl.Trainer, input_spec: InputSpec, cfg: DictConfig
) -> float:
    """Fit, test the best checkpoint, write `metrics.json`; returns `cfg.optimized_metric` at the best epoch.

    Without checkpoints (`trainer.fast_dev_run=true`, `callbacks.checkpoint=null`) the network is tested as it ended.
    Raises `UserError` before the first step for a metric that a run must not be chosen by.
    """
    if cfg.optimized_metric not in ("val/acc1", "val/acc5", "val/loss"):
        raise UserError(f"optimized_metric={cfg.optimized_metric}: there are val/acc1, val/acc5, val/loss")
    for pattern in IGNORED_WARNINGS:
        warnings.filterwarnings("ignore", pattern)
    distributed.check_trainer(trainer)
    run_dir = Path(cfg.run_dir)
    start = prepare_resume(run_dir, data, trainer, cfg) if cfg.resume is not None else None
    parameters = sum(p.numel() for p in classifier.net.parameters() if p.requires_grad)
    loader = loader_name(data, trainer, cfg)
    log_table(run_table(data, trainer, input_spec, cfg, parameters, loader))
    boards = [logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
    if start is None:
        for board in boards:
            lines = OmegaConf.to_yaml(cfg, resolve=True).splitlines()
            board.add_text("config", "\n".join(f"    {line}" for line in lines))  # four spaces: verbatim in Markdown

    table = {**cli_overrides(cfg), **hyperparameters(cfg, input_spec, loader)}
    for logger in trainer.loggers:
        if not isinstance(logger, TensorBoardLogger):  # which has a table of its own, written at the end
            logger.log_hyperparams(table)
    steps = len(data.split("train") or ()) // data.batch_size // trainer.world_size
    limit = trainer.limit_train_batches  # a number of batches, or a share of them
    steps = min(steps, limit) if isinstance(limit, int) else int(steps * limit)
    often = min(trainer.log_every_n_steps, steps)  # type: ignore[attr-defined]
    trainer.log_every_n_steps = max(1, often)  # type: ignore[attr-defined]  # a small set has curves too

    with disk_errors_as_user_error(run_dir), handle_signals(trainer, run_dir):
        fit(classifier, data, trainer, cfg, start and start[0])
        return _test_and_report(
            classifier, data, trainer, cfg, table, {} if start is None else start[1]["cnnzoo"]["metrics"]
        )


def _test_and_report(
    classifier: Classifier,
    data: DataModule,
    trainer: pl.Trainer,
    cfg: DictConfig,
    table: Mapping[str, Any],
    before: Mapping[str, float],
) -> float:
    """Test what training kept, write down what came out; `before` are the figures that a resumed run went on with."""
    run_dir = Path(cfg.run_dir)
    figures = final_metrics(trainer, before)
    epochs = trainer.current_epoch
    with distributed.supervise_ranks(trainer):
        kept = selected_checkpoint(trainer, run_dir)
    if kept is not None:
        saved = torch.load(kept, map_location="cpu", weights_only=True)
        classifier.load_full_state_dict(saved["state_dict"])
        figures |= {name: value for name, value in saved["cnnzoo"]["metrics"].items() if name.startswith("val/")}
    if cfg.test and data.has_test:
        with distributed.supervise_ranks(trainer), oom_as_user_error(cfg):
            trainer.test(classifier, datamodule=data, verbose=False)
        figures |= {name: float(v) for name, v in trainer.callback_metrics.items() if name.startswith("test/")}

    seconds = next((each.seconds for each in trainer.callbacks if isinstance(each, CheckpointSaver)), 0.0)  # type: ignore[attr-defined]
    parameters = sum(p.numel() for p in classifier.net.parameters() if p.requires_grad)
    metrics: dict[str, Any] = {**figures, "parameters": parameters, "epochs": epochs, "seconds": round(seconds, 1)}
    if kept is not None and kept.stem == "best":
        metrics["best_epoch"] = saved["cnnzoo"]["epochs"]
    if not data.has_test:
        metrics["tested"] = "nothing: the data has no test split"
    if trainer.is_global_zero:
        write_json(run_dir / "metrics.json", metrics)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                with SummaryWriter(logger.log_dir) as writer:  # the logger has closed its own
                    write_hparams(writer, table, figures, first=cli_overrides(cfg), step=trainer.global_step)
        finish_wandb()
        log_table(final_table(metrics, run_dir))
    return figures.get(cfg.optimized_metric, math.nan)


def selected_checkpoint(trainer: pl.Trainer, run_dir: Path) -> Path | None:
    """The best checkpoint, or the last one if none was better than another, or none; the same one on all ranks.

    Raises UserError on a machine that does not see the run directory of the first.
    """
    both = (run_dir / "checkpoints" / f"{name}.ckpt" for name in ("best", "last"))
    kept = trainer.strategy.broadcast(next((path for path in both if path.exists()), None))
    if kept is not None and not kept.exists():
        raise UserError(f"{kept} is not there: run_dir must be where all machines of a run see it")
    return kept


def final_metrics(trainer: pl.Trainer, before: Mapping[str, float]) -> dict[str, float]:
    """The last epoch's figures: `train/` as means over it, `val/` at its end, `perf/` over the whole of it.

    `before` are those that a resumed run went on with, for one that had no epoch left.
    """
    now = {**before, **{name: float(value) for name, value in trainer.callback_metrics.items()}}
    figures = {f"train/{name}": now[f"train/{name}_epoch"] for name in ("loss", "acc1")}
    figures |= {name: value for name, value in now.items() if name.startswith(("val/", "perf/"))}
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, Throughput) and callback.images:
            figures["perf/images_per_second"] = callback.epoch_images_per_second
            figures["perf/data_wait"] = callback.epoch_data_wait or 0.0
    return figures
