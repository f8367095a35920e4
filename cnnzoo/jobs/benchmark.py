"""Measure, on your own data and machine, which cache and loader settings make training fastest. No run is saved.
job=gpu checks instead whether everything that was built for a GPU works on yours, and how fast it is.

Examples:
  python benchmark.py job=data data=folder data.root=~/flowers   which cache, which loader, how many workers
  python benchmark.py job=data data=imagenet data.root=DIR model.name=resnet50 data.batch_size=256 trainer=gpu
  python benchmark.py job=data data=cifar10 model=wide_resnet    a data set in memory: how many workers
  python benchmark.py job=data loader.kind=threads data.cache.mode=decoded csv=settings.csv
  python benchmark.py job=gpu                                    images, speed and memory on a GPU; less than 10 minutes
  python benchmark.py job=gpu trainer=cpu                        the same with small sizes, to test the job itself

Type the keys that you would type for train.py. A cache mode, a loader, a kind of workers (threads or processes) or a
number of workers that you set is the only one measured; otherwise all of them are.

Keys of job=data:
  seconds=2             duration of each measurement
  rounds=3              number of times that everything is measured; the table shows medians
  images=2048           for image files: number of training images to use, evenly spaced; at least two batches
  finalists=4           settings to measure during training as well, in addition to the one that loads fastest
  data.cache.resize=S   also measure caches whose images have a shorter side of S pixels
  csv=FILE              write the table to a file, with exact numbers

Keys of job=gpu, which generates its images and reads no other keys:
  json=FILE             the file for all results and the facts about the machine (default: gpu_benchmark.json)
  seconds=8             longest duration of a measurement of training, which also ends after 20,000 images
  rounds=3              number of times that training is measured; the lines show medians
  small=true            small sizes, which test the job itself; the default without a CUDA GPU

Headspace is the speed of training if loading took no time: training steps on one batch that stays on the device.
job=data measures each setting alone, and then the most promising ones during training, which uses the same cores. Of
the settings within 3 % of the fastest, it recommends the simplest: the one with the least memory, then threads before
processes before DALI, then the fewest workers.
Each line of job=gpu shows a check, its figure, the bar and the result. The exit code is 1 if one failed. A check that
cannot run on this machine is skipped, and the line says why.
A misspelt key is an error that suggests the closest ones. HYDRA_FULL_ERROR=1 shows the traceback behind an error.
"""

import os
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from cnnzoo import cli
from cnnzoo.runtime.imports import imports_without_gc
from cnnzoo.training.check_config import check_accelerator, check_config

if TYPE_CHECKING:
    from cnnzoo.benchmark import Training


def main(cfg: DictConfig) -> None:
    """Run the benchmark `cfg.job`, and print its results."""
    check_config(cfg)
    with imports_without_gc():  # here because torch takes seconds to load, and a misspelt key is reported without torch
        from cnnzoo import benchmark

    benchmark.check_config(cfg, cli.typed_keys())
    check_accelerator(cfg.trainer)
    if cfg.job == "gpu":
        check_gpu(cfg)
    else:
        measure_data(cfg)


def measure_data(cfg: DictConfig) -> None:
    """Measure how fast each loading setting is, print the results and the settings to use."""
    from cnnzoo import benchmark
    from cnnzoo.callbacks.progress import cache_progress
    from cnnzoo.training import train
    from cnnzoo.training.device_defaults import apply_device_defaults

    apply_device_defaults(cfg)
    train.seed_everything(cfg.seed)
    data = cli.instantiate(cfg.data, "data", fill_progress=cache_progress)
    if not cli.was_typed("data.batch_size"):
        train.lower_batch_size(data, cfg, world_size=1)
    net, input_spec = train.build_network(cfg.model, data)
    data.start_size = None  # measures the final image size
    optimizer = cli.instantiate(cfg.optimizer, "optimizer")
    classifier = train.build_classifier(net, input_spec, data, optimizer=optimizer, scheduler=None, cfg=cfg)
    benchmark.run_data_benchmark(
        cfg, data, classifier, lambda *callbacks: cli.instantiate(cfg.trainer, "trainer", callbacks=list(callbacks))
    )


def check_gpu(cfg: DictConfig) -> None:
    """Check everything that was built for a GPU; without one, with small sizes on the CPU."""
    import torch

    from cnnzoo import benchmark
    from cnnzoo.training.device_defaults import find_device

    device = torch.device("cuda", 0) if find_device(cfg.trainer.accelerator).type == "cuda" else torch.device("cpu")
    if device.type == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"  # runs the kernel without a GPU
    benchmark.run_gpu_benchmark(cfg, build_training, device)


def build_training(overrides: Sequence[str]) -> "Training":
    """Build what `train.py` builds for these overrides."""
    from cnnzoo.benchmark import Training
    from cnnzoo.jobs.train import build_classifier, build_trainer

    cfg = cli.compose("train", overrides)
    data, classifier, _ = build_classifier(cfg)
    return Training(cfg, data, classifier, partial(build_trainer, cfg, classifier))


def run() -> None:
    """Run the job with the arguments of the command line."""
    cli.run(main, job="benchmark", help_text=__doc__ or "")


if __name__ == "__main__":
    run()
