"""Measure, on your own data and machine, what feeds training best, and print the settings to use. Nothing is trained.

  python benchmark.py job=data data=folder data.root=~/flowers   which cache, loader, workers
  python benchmark.py job=data data=imagenet data.root=DIR model.name=resnet50 data.batch_size=256 trainer=gpu
  python benchmark.py job=data data=cifar10 model=wide_resnet    a set in memory: who makes its batches
  python benchmark.py job=data loader.kind=threads data.cache.mode=decoded csv=ways.csv

Type what you would type for train.py. A cache mode, a loader, a kind or a number of workers, once typed, is not varied.

Keys:
  job=data             what is measured; so far this alone
  seconds=2            of each measurement              rounds=3       of all measurements, in turn; medians are shown
  images=2048          of files: as many of the training split are measured, evenly spread, at least two batches
  finalists=4          ways that are tried under training, besides the one that loads fastest
  data.cache.resize=S  measures the caches with images made smaller, too
  csv=FILE             the table as a file, every figure exact

Headspace is what training would do if data cost nothing: its steps on one batch that never leaves the device. Each way
of loading is measured alone, then the most promising under training, with which they share the cores. The first of
those within 3 % of the best, in the order of memory, threads before processes before DALI, and number of workers, is
what to use.
A misspelt key is an error that names the nearest one. HYDRA_FULL_ERROR=1 shows the traceback behind an error.
"""

from cnnzoo import cli
from cnnzoo.jobs.benchmark import main

if __name__ == "__main__":
    cli.run(main, config="benchmark", help_text=__doc__)
