"""Callbacks that show, log and save training; each is one entry of `conf/callbacks/`."""

from cnnzoo.callbacks.bottleneck import Bottleneck
from cnnzoo.callbacks.checkpoint import CheckpointSaver
from cnnzoo.callbacks.early_stopping import EarlyStopping
from cnnzoo.callbacks.ema import EMA
from cnnzoo.callbacks.epoch_table import EpochTable
from cnnzoo.callbacks.gpu_stats import GpuStats
from cnnzoo.callbacks.grad_norm import GradientNorm
from cnnzoo.callbacks.nan_guard import NanGuard
from cnnzoo.callbacks.progress import ProgressBar
from cnnzoo.callbacks.tensorboard.custom_scalars import CustomScalarLayout
from cnnzoo.callbacks.tensorboard.evaluation import Evaluation
from cnnzoo.callbacks.tensorboard.filters import Filters
from cnnzoo.callbacks.tensorboard.histograms import Histograms
from cnnzoo.callbacks.tensorboard.layer_table import LayerTable
from cnnzoo.callbacks.tensorboard.writer import FirstBatch, Graph
from cnnzoo.callbacks.throughput import Throughput

__all__ = [
    "EMA",
    "Bottleneck",
    "CheckpointSaver",
    "CustomScalarLayout",
    "EarlyStopping",
    "EpochTable",
    "Evaluation",
    "Filters",
    "FirstBatch",
    "GpuStats",
    "GradientNorm",
    "Graph",
    "Histograms",
    "LayerTable",
    "NanGuard",
    "ProgressBar",
    "Throughput",
]
