"""What is shown, logged and saved while training; each is one entry of `conf/callbacks/`."""

from cnnzoo.callbacks.board import FirstBatch, Graph
from cnnzoo.callbacks.bottleneck import Bottleneck
from cnnzoo.callbacks.checkpoint import Checkpoints, Stopped
from cnnzoo.callbacks.ema import EMA
from cnnzoo.callbacks.finite import Finite
from cnnzoo.callbacks.progress import EpochLine, ProgressBar
from cnnzoo.callbacks.speed import Speed

__all__ = [
    "EMA",
    "Bottleneck",
    "Checkpoints",
    "EpochLine",
    "Finite",
    "FirstBatch",
    "Graph",
    "ProgressBar",
    "Speed",
    "Stopped",
]
