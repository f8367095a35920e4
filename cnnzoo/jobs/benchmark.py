"""Measure, on your own data and machine, loading, training and inference, and compare hardware. No run is saved.
job=gpu checks instead whether everything that was built for a GPU works on yours, and how fast it is.

Examples:
  python benchmark.py job=data data=folder data.root=~/flowers   which cache, which loader, how many workers
  python benchmark.py job=data data=imagenet data.root=DIR model.name=resnet50 data.batch_size=256 trainer=gpu
  python benchmark.py job=data loader.kind=threads data.cache.mode=decoded csv=settings.csv
  python benchmark.py job=hardware                               nine networks on CPU and GPU, beside the times of 2016
  python benchmark.py job=hardware models=[resnet50] trainer=gpu
  python benchmark.py job=graph model=resnet                     as it is, compiled, exported, AOTInductor and ONNX
  python benchmark.py job=train model=resnet                     train.py beside a hand-written loop and beside timm
  python benchmark.py job=inference model=resnet                 latency and images per second by batch size
  python benchmark.py job=gpu                                    images, speed and memory on a GPU; less than 10 minutes

Type the keys that you would type for train.py. job=hardware, graph, inference and gpu use generated images; they refuse
keys that they do not read, and list those that they do.

Keys of all jobs:
  seconds=2             duration of each measurement (job=data, hardware and graph; train 4, inference 1, gpu 8)
  rounds=3              number of times that everything is measured; tables show medians, and the range of the rounds
  json=FILE             the file for all results; a chart is drawn beside it, with matplotlib. By default
                        <job>_benchmark.json in this directory, with a number if it exists, and none for job=data;
                        json=null for none

Keys of job=data, where a cache mode, a loader, a kind of workers (threads or processes) or a number of workers that you
set is the only one measured:
  images=2048           for image files: number of training images to use, evenly spaced; at least two batches
  finalists=4           settings to measure during training as well, in addition to the one that loads fastest
  data.cache.resize=S   also measure caches whose images have a shorter side of S pixels
  csv=FILE              write the table to a file, with exact numbers

Keys of job=hardware, which measures forward and backward passes in float32, on a GPU with and without cuDNN:
  models=[vgg16,...]    networks to measure; by default the nine that cnn-benchmarks measured in 2016
  data.batch_size=16, data.image_size=224

Keys of job=graph:
  variants=[eager,...]  of eager, compiled, exported, aoti and onnx, those to measure
  data.batch_size=16, data.image_size=224, and model.name, model.stem, model.num_classes

Keys of job=train, which reads all keys of training that benchmark.py has:
  data=..., data.root=  the images; by default, JPEGs are generated
  images=2048           number of generated images
  data.batch_size=64    the default on a CPU is 16

Keys of job=inference, where a precision, a compilation or a memory format that you set is the only one measured:
  batch_sizes=[1,8]     images per batch
  trainer.precision=bf16-true, compile=default, channels_last=true, data.image_size=224, model.name=resnet50

Keys of job=gpu:
  small=true            small sizes, which test the job itself; the default without a CUDA GPU

If the memory of the device is full, job=hardware, graph, train and inference halve the batch and say so.
job=data: headspace is the speed of training if loading took no time: training steps on one batch that stays on the
device. The job measures each setting alone, and then the most promising ones during training, which uses the same
cores. Of the settings within 3 % of the fastest, it recommends the simplest: the one with the least memory, then
threads before processes before DALI, then the fewest workers.
job=gpu: each line shows a check, its figure, the bar and the result. The exit code is 1 if one failed. A check that
cannot run on this machine is skipped, and the line says why.
A misspelt key is an error that suggests the closest ones. HYDRA_FULL_ERROR=1 shows the traceback behind an error.
"""

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from omegaconf import DictConfig, open_dict

from cnnzoo import cli
from cnnzoo.runtime.imports import imports_without_gc
from cnnzoo.training.check_config import check_accelerator, check_config

if TYPE_CHECKING:
    from cnnzoo.benchmark import Training

SHARED_KEYS = (
    *("data", "model", "loader", "augment", "optimizer", "trainer"),
    *("seed", "compile", "channels_last", "tf32", "label_smoothing"),
)
"""The parts of the configuration that `benchmark` and `train` have in common."""


def main(cfg: DictConfig) -> None:
    """Run the benchmark `cfg.job`, and print its results."""
    check_config(cfg)
    with imports_without_gc():  # here because torch takes seconds to load, and a misspelt key is reported without torch
        from cnnzoo import benchmark

    benchmark.check_config(cfg, cli.typed_keys())
    check_accelerator(cfg.trainer)
    jobs = {
        "data": measure_data,
        "hardware": benchmark.run_hardware_benchmark,
        "graph": measure_graph,
        "train": measure_train,
        "inference": lambda cfg: benchmark.run_inference_benchmark(cfg, cli.typed_keys()),
        "gpu": check_gpu,
    }
    jobs[cfg.job](cfg)


def measure_data(cfg: DictConfig) -> None:
    """Measure how fast each loading setting is, print the results and the settings to use."""
    from cnnzoo import benchmark
    from cnnzoo.data.cache.progress import cache_progress
    from cnnzoo.training import task, train
    from cnnzoo.training.device_defaults import apply_device_defaults

    apply_device_defaults(cfg)
    train.seed_everything(cfg.seed)
    data = cli.instantiate(cfg.data, "data", fill_progress=cache_progress)
    if not cli.was_typed("data.batch_size"):
        train.lower_batch_size(data, cfg, world_size=1)
    net, input_spec = train.build_network(cfg.model, data)
    data.start_size = None  # measures the final image size
    optimizer = cli.instantiate(cfg.optimizer, "optimizer")
    classifier = task.build_classifier(net, input_spec, data, optimizer=optimizer, scheduler=None, cfg=cfg)
    benchmark.run_data_benchmark(
        cfg, data, classifier, lambda *callbacks: cli.instantiate(cfg.trainer, "trainer", callbacks=list(callbacks))
    )


def measure_graph(cfg: DictConfig) -> None:
    """Measure a network as it is and as a static graph, in the forms that `export.py` writes."""
    from cnnzoo import benchmark
    from cnnzoo.export import formats

    files = {
        "exported": (formats.write_pt2, formats.load_pt2),
        "aoti": (formats.write_aoti, formats.load_aoti),
        "onnx": (formats.write_onnx, formats.load_onnx),
    }
    benchmark.run_graph_benchmark(cfg, files)


def measure_train(cfg: DictConfig) -> None:
    """Measure how much of the device's speed `train.py` reaches, on the user's images or on generated ones."""
    from cnnzoo import benchmark
    from cnnzoo.training.device_defaults import find_device

    typed = cli.typed_keys()
    if "data.batch_size" not in typed and find_device(cfg.trainer.accelerator).type == "cpu":
        cfg.data.batch_size = benchmark.CPU_BATCH_SIZE
    with TemporaryDirectory(prefix="cnnzoo-benchmark-") as directory:
        if "data" not in typed:
            benchmark.use_generated_images(cfg, Path(directory) / "images")
            if not any(key.partition(".")[0] == "augment" for key in typed):
                cfg.augment = cli.compose("train", ["augment=imagenet"]).augment
        benchmark.run_train_benchmark(cfg, build_measured_training(cfg, Path(directory) / "run"))


def build_measured_training(cfg: DictConfig, run_dir: Path) -> "Training":
    """Build what `train.py` builds for the configuration of a benchmark, with the parts that act in each step."""
    from cnnzoo.benchmark import STEP_OVERRIDES, Training
    from cnnzoo.jobs.train import build_classifier, build_trainer
    from cnnzoo.training import train

    train_cfg = cli.compose("train", [f"run_dir='{run_dir}'", *STEP_OVERRIDES])
    with open_dict(train_cfg):
        for key in SHARED_KEYS:
            train_cfg[key] = cfg[key]
        train_cfg.trainer.update(max_epochs=1, default_root_dir=str(run_dir))
    train_cfg.optimizer.lr = 0.0  # the weights could diverge, and NaNs change the speed
    data, classifier, _ = build_classifier(train_cfg)
    if not cli.was_typed("data.batch_size"):
        train.lower_batch_size(data, train_cfg, world_size=1)
    data.start_size = None  # measures the final image size
    return Training(train_cfg, data, classifier, partial(build_trainer, train_cfg, classifier))


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
