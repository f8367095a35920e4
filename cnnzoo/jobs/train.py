"""Train a network on images, test its best checkpoint, and save everything in a run directory.

Examples:
  python train.py model=resnet                                  ResNet-18 on 1,797 handwritten digits (included)
  python train.py model=vgg model.name=vgg11_bn                 another family, and one of its networks
  python train.py model=lenet data=folder data.root=~/flowers   your own images, one folder per class
  python train.py model=custom model.target=mynet.TinyNet       your own network: TinyNet of mynet.py in this directory
  python train.py experiment=transfer model=squeezenet model.weights=DEFAULT data=folder data.root=~/flowers
                                                                fine-tune a pretrained network on your own images
  python train.py -m model=lenet,resnet optimizer.lr=0.1,0.01   all four combinations one after the other, and a table
  python train.py -m sweep=optuna model=lenet                   a hyperparameter search with Optuna
  python train.py model=resnet trainer=ddp                      on all devices of this machine
  python train.py resume=runs/digits/resnet18/...               continue a stopped run from its last checkpoint
  python train.py --config-dir DIR experiment=mine              with your own configuration files, laid out like conf/
  python train.py model=resnet --cfg job                        print the whole configuration and exit

group=choice selects a whole part of the configuration (the choices are listed below), key=value sets one value, and
+key=value adds one.

Common keys:
  model.name=resnet50            a network of the family
  model.stem=small               form of the first layers: native (the paper's), small (for small images), or auto
  model.weights=W                initial weights: a torchvision name such as IMAGENET1K_V1, or a file
  data.root=DIR                  directory of the images
  data.image_size=64             side of the input, in pixels, or [height,width]
  data.fit=pad                   crop, pad or squash images of another aspect ratio
  data.channels=1                1 (grayscale), 3 (color), or another number for TIFF and NumPy files
  data.bits=16                   keep the values of 16-bit files instead of reducing them to 8 bits
  data.batch_size=128            images per step and device
  loader.workers=4               processes or threads that read, decode and augment images
  optimizer.lr=0.01              learning rate
  optimizer.weight_decay=0       weight decay
  tune=lr                        find the learning rate before training; tune=batch_size: the batch size, on a GPU
  scheduler.warmup_epochs=1      epochs during which the learning rate rises to optimizer.lr
  trainer.max_epochs=20          number of epochs
  trainer.precision=32           numeric precision; every argument of Lightning's Trainer is a key of trainer
  label_smoothing=0.1            label smoothing of the loss
  mixup=0.2, cutmix=1.0          mix pairs of training images
  class_weights=balanced         weight the loss for classes with few images
  ema=0.999                      average the weights with this decay; the average is what is evaluated and saved
  compile=default                compile the network; also reduce-overhead or max-autotune (torch.compile's modes)
  task=multilabel                any number of labels for each image
  seed=1                         seed of the initial weights, the order of the images and the augmentation
  test=false                     do not test the best checkpoint
  run_dir=DIR                    the run directory; by default runs/<data>/<network>/<date and time>
  resume=DIR                     continue the run in this directory

A misspelt key is an error that suggests the closest ones. HYDRA_FULL_ERROR=1 shows the traceback behind an error.
"""

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from cnnzoo import cli
from cnnzoo.cli.run_dir import lock_run_dir
from cnnzoo.runtime.imports import imports_without_gc
from cnnzoo.training.check_config import check_accelerator, check_config

if TYPE_CHECKING:
    from pytorch_lightning import Callback, Trainer

    from cnnzoo.data.datamodule import DataModule
    from cnnzoo.models.input_spec import InputSpec
    from cnnzoo.training.classifier import Classifier


def main(cfg: DictConfig) -> float | None:
    """Train as configured. Returns the metric that a sweep optimizes."""
    check_config(cfg)
    with imports_without_gc():  # here because torch takes seconds to load, and a misspelt key is reported without torch
        from cnnzoo.training import train

    check_accelerator(cfg.trainer)
    if cfg.get("tune") is not None:
        from cnnzoo.training.tune import apply_tuning

        apply_tuning(cfg, build_trial)
    data, classifier, input_spec = build_classifier(cfg)
    trainer = build_trainer(cfg, classifier)
    if not cli.was_typed("data.batch_size") and cfg.get("tune") != "batch_size":
        train.lower_batch_size(data, cfg, trainer.world_size)
    locked = lock_run_dir(Path(cfg.run_dir), is_resumed=cfg.resume is not None)
    with locked if trainer.is_global_zero else nullcontext():  # the other ranks write nothing there
        return train.train(classifier, data, trainer, input_spec, cfg)


def build_trial(cfg: DictConfig) -> "tuple[DataModule, Classifier, Trainer]":
    """Build what a finder of `tune` trains."""
    from cnnzoo.training import train

    data, classifier, _ = build_classifier(cfg)
    data.start_size = None  # trials are at the final image size, which needs the most memory
    if not cli.was_typed("data.batch_size"):
        train.lower_batch_size(data, cfg, world_size=1)
    return data, classifier, build_trainer(cfg, classifier)


def build_classifier(cfg: DictConfig) -> "tuple[DataModule, Classifier, InputSpec]":
    """Build the data, and the network with its optimizer and schedule; each `auto` in `cfg` is replaced."""
    from cnnzoo.data.cache.progress import cache_progress
    from cnnzoo.training import task, train
    from cnnzoo.training.device_defaults import apply_device_defaults
    from cnnzoo.training.finetune import apply_finetune_defaults

    apply_device_defaults(cfg)
    apply_finetune_defaults(cfg)
    train.seed_everything(cfg.seed)
    data = cli.instantiate(cfg.data, "data", fill_progress=cache_progress)
    net, input_spec = train.build_network(cfg.model, data)
    classifier = task.build_classifier(
        net,
        input_spec,
        data,
        optimizer=cli.instantiate(cfg.optimizer, "optimizer", _convert_="all"),  # checkpoints hold plain types only
        scheduler=cli.instantiate(cfg.scheduler, "scheduler", _convert_="all"),
        cfg=cfg,
    )
    return data, classifier, input_spec


def build_trainer(cfg: DictConfig, classifier: "Classifier", *more_callbacks: "Callback") -> "Trainer":
    """Build the trainer with the configured callbacks and loggers, and `more_callbacks`."""
    from cnnzoo.training import train
    from cnnzoo.training.finetune import freeze_callbacks

    callbacks = [cli.instantiate(node, f"callbacks.{name}") for name, node in cfg.callbacks.items() if node]
    freeze = freeze_callbacks(cfg, classifier.net)
    trainer: Trainer = cli.instantiate(
        cfg.trainer,
        "trainer",
        callbacks=[*callbacks, *freeze, *train.ema_callbacks(cfg.ema), *more_callbacks],
        logger=[cli.instantiate(node, f"logger.{name}") for name, node in cfg.logger.items() if node],
        strategy=train.build_strategy(cfg.trainer, has_frozen_parameters=bool(freeze)),
        # Validation runs without inference mode: with it, the test would compile the network once more.
        inference_mode=cfg.trainer.inference_mode and not cfg.compile,
    )
    return trainer


def run() -> None:
    """Run the job with the arguments of the command line."""
    cli.run(main, job="train", help_text=__doc__ or "")


if __name__ == "__main__":
    run()
