"""What is shown, logged and saved while training; each is one entry of `conf/callbacks/`."""

from cnnzoo.callbacks.board import FirstBatch, Graph
from cnnzoo.callbacks.bottleneck import Bottleneck
from cnnzoo.callbacks.checkpoint import Checkpoints
from cnnzoo.callbacks.ema import EMA
from cnnzoo.callbacks.epoch_line import EpochLine
from cnnzoo.callbacks.evaluation import Evaluation
from cnnzoo.callbacks.filters import Filters
from cnnzoo.callbacks.finite import Finite
from cnnzoo.callbacks.gpu import Gpu
from cnnzoo.callbacks.histograms import Histograms
from cnnzoo.callbacks.layout import Layout
from cnnzoo.callbacks.norms import Norms
from cnnzoo.callbacks.progress import ProgressBar
from cnnzoo.callbacks.speed import Speed
from cnnzoo.callbacks.text import LayerTable

__all__ = [
    "EMA",
    "Bottleneck",
    "Checkpoints",
    "EpochLine",
    "Evaluation",
    "Filters",
    "Finite",
    "FirstBatch",
    "Gpu",
    "Graph",
    "Histograms",
    "LayerTable",
    "Layout",
    "Norms",
    "ProgressBar",
    "Speed",
]
