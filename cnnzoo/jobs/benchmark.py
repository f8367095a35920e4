"""Measure, on your own data and machine, which cache and loader settings make training fastest. No run is saved.

Examples:
  python benchmark.py job=data data=folder data.root=~/flowers   which cache, which loader, how many workers
  python benchmark.py job=data data=imagenet data.root=DIR model.name=resnet50 data.batch_size=256 trainer=gpu
  python benchmark.py job=data data=cifar10 model=wide_resnet    a data set in memory: how many workers
  python benchmark.py job=data loader.kind=threads data.cache.mode=decoded csv=settings.csv

Type the keys that you would type for train.py. A cache mode, a loader, a kind of workers (threads or processes) or a
number of workers that you set is the only one measured; otherwise all of them are.

Keys:
  job=data              what to measure; only data so far
  seconds=2             duration of each measurement
  rounds=3              number of times that everything is measured; the table shows medians
  images=2048           for image files: number of training images to use, evenly spaced; at least two batches
  finalists=4           settings to measure during training as well, in addition to the one that loads fastest
  data.cache.resize=S   also measure caches whose images have a shorter side of S pixels
  csv=FILE              write the table to a file, with exact numbers

Headspace is the speed of training if loading took no time: training steps on one batch that stays on the device.
Each setting is measured alone. The most promising ones are then measured during training, which uses the same cores.
Of the settings within 3 % of the fastest, the simplest is recommended: the one with the least memory, then threads
before processes before DALI, then the fewest workers.
A misspelt key is an error that suggests the closest ones. HYDRA_FULL_ERROR=1 shows the traceback behind an error.
"""

from omegaconf import DictConfig

from cnnzoo import cli
from cnnzoo.runtime.imports import imports_without_gc
from cnnzoo.training.check_config import check_accelerator, check_config


def main(cfg: DictConfig) -> None:
    """Measure how fast each loading setting is, print the results and the settings to use."""
    check_config(cfg)
    with imports_without_gc():  # here because torch takes seconds to load, and a misspelt key is reported without torch
        from cnnzoo import benchmark
        from cnnzoo.callbacks.progress import cache_progress
        from cnnzoo.training import train
        from cnnzoo.training.device_defaults import apply_device_defaults

    benchmark.check_config(cfg)
    check_accelerator(cfg.trainer)
    apply_device_defaults(cfg)
    train.seed_everything(cfg.seed)
    data = cli.instantiate(cfg.data, "data", fill_progress=cache_progress)
    if not cli.was_typed("data.batch_size"):
        train.lower_batch_size(data, cfg, world_size=1)
    net, input_spec = train.build_network(cfg.model, data)
    optimizer = cli.instantiate(cfg.optimizer, "optimizer")
    classifier = train.build_classifier(net, input_spec, data, optimizer=optimizer, scheduler=None, cfg=cfg)
    benchmark.run_data_benchmark(
        cfg, data, classifier, lambda *callbacks: cli.instantiate(cfg.trainer, "trainer", callbacks=list(callbacks))
    )


def run() -> None:
    """Run the job with the arguments of the command line."""
    cli.run(main, job="benchmark", help_text=__doc__ or "")


if __name__ == "__main__":
    run()
