"""What is shown, logged and saved while training; each is one entry of `conf/callbacks/`."""

from cnnzoo.callbacks.board import FirstBatch, Graph
from cnnzoo.callbacks.bottleneck import Bottleneck
from cnnzoo.callbacks.checkpoint import BestCheckpoint
from cnnzoo.callbacks.epoch_line import EpochLine
from cnnzoo.callbacks.progress import ProgressBar
from cnnzoo.callbacks.speed import Speed

__all__ = ["BestCheckpoint", "Bottleneck", "EpochLine", "FirstBatch", "Graph", "ProgressBar", "Speed"]
