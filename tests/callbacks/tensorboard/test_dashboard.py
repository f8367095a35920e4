"""Tests of norms, chart layout, filters, histograms, layer table and hyperparameters in TensorBoard."""

import re
from functools import partial
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from cnnzoo.callbacks import (
    CustomScalarLayout,
    Evaluation,
    Filters,
    GpuStats,
    GradientNorm,
    Graph,
    Histograms,
    LayerTable,
    Throughput,
)
from cnnzoo.callbacks.tensorboard.custom_scalars import custom_scalar_layout
from cnnzoo.callbacks.tensorboard.filters import first_layer_weight
from cnnzoo.callbacks.tensorboard.histograms import write_histogram
from cnnzoo.callbacks.tensorboard.hparams import write_hparams
from cnnzoo.callbacks.tensorboard.layer_table import markdown_table
from cnnzoo.data import Digits
from cnnzoo.data.datamodule import DataModule
from cnnzoo.describe.trace import trace_layers
from cnnzoo.errors import UserError
from cnnzoo.models import create_model, info, list_models
from cnnzoo.training.classifier import Classifier


def read_events(log_dir):
    """All events that were written to a directory."""
    sizes = dict.fromkeys(("scalars", "images", "tensors", "histograms"), 0)
    return EventAccumulator(str(log_dir), size_guidance=sizes).Reload()


def train_on_digits(log_dir, *callbacks, net=None, epochs=2, resume=None, **options):
    """Train for `epochs` of 4 steps, logging every second step; returns (events, trainer)."""
    torch.manual_seed(0)
    data = DataModule(Digits, batch_size=300)
    data.set_input(image_size=32, channels=1)
    net = net or create_model("lenet5", in_channels=1)
    metadata = {"model": getattr(net, "arguments", {}), "preprocess": data.preprocess}
    trainer = pl.Trainer(
        logger=TensorBoardLogger(str(log_dir), name=None, version=""),
        max_epochs=epochs,
        accelerator="cpu",
        log_every_n_steps=2,
        callbacks=list(callbacks),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        **options,
    )
    classifier = Classifier(net, optimizer=partial(torch.optim.SGD, lr=0.1), metadata=metadata)
    trainer.fit(classifier, datamodule=data, ckpt_path=resume)
    return read_events(log_dir), trainer


class NormRecorder(pl.Callback):
    """Records the norms of gradient and weights at every step, before clipping."""

    def __init__(self):
        self.gradient, self.weight = [], []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        parameters = list(pl_module.net.parameters())
        self.gradient.append(torch.cat([p.grad.flatten() for p in parameters]).norm().item())
        self.weight.append(torch.cat([p.detach().flatten() for p in parameters]).norm().item())


def test_grad_norm_logs_unclipped_norms_at_logged_steps(tmp_path):
    recorder = NormRecorder()
    events, _ = train_on_digits(tmp_path, GradientNorm(), recorder, gradient_clip_val=1e-3)
    for tag, expected in (("norm/gradient", recorder.gradient), ("norm/weight", recorder.weight)):
        scalars = events.Scalars(tag)
        assert [event.step for event in scalars] == [1, 3, 5, 7]
        assert [event.value for event in scalars] == pytest.approx([expected[step] for step in (1, 3, 5, 7)], rel=1e-5)
    assert min(recorder.gradient) > 1e-2


def test_grad_norm_covers_accumulated_batches(tmp_path):
    recorder = NormRecorder()
    events, _ = train_on_digits(tmp_path, GradientNorm(), recorder, accumulate_grad_batches=2)
    scalars = events.Scalars("norm/gradient")
    assert [event.step for event in scalars] == [1, 3]
    assert [event.value for event in scalars] == pytest.approx([recorder.gradient[1], recorder.gradient[3]], rel=1e-5)


def test_grad_norm_sums_shards_over_ranks(monkeypatch):
    strategy = SimpleNamespace(reduce=lambda square, reduce_op: {"sum": 2}[reduce_op] * square)
    monkeypatch.setattr("cnnzoo.callbacks.grad_norm.FSDPStrategy", SimpleNamespace)
    monkeypatch.setattr("cnnzoo.callbacks.grad_norm.is_logging_step", lambda trainer: True)
    logged = {}
    module = SimpleNamespace(log_step=logged.update, device=torch.device("cpu"))
    shard = nn.Parameter(torch.tensor([3.0, 4.0]))  # has no gradient on this rank
    optimizer = SimpleNamespace(param_groups=[{"params": [shard]}])
    GradientNorm().on_before_optimizer_step(SimpleNamespace(strategy=strategy), module, optimizer)
    assert logged["norm/gradient"] == 0
    assert logged["norm/weight"].item() == pytest.approx(50**0.5)


def read_layout(events):
    """Category -> chart -> patterns of tags."""
    (event,) = events.Tensors("custom_scalars__config__")
    layout = Layout.FromString(event.tensor_proto.string_val[0])
    return {
        category.title: {chart.title: list(chart.multiline.tag) for chart in category.chart}
        for category in layout.category
    }


def test_custom_scalars_every_chart_matches_a_tag(tmp_path):
    events, _ = train_on_digits(
        tmp_path, CustomScalarLayout(), GradientNorm(), Throughput(), Evaluation(max_time_fraction=1.0), GpuStats()
    )
    layout = read_layout(events)
    assert list(layout) == ["Is it learning?", "Is it fast, and what limits it?", "Where is it wrong?"]
    tags = set(events.Tags()["scalars"]) | {"lr"}  # logged only with a scheduler
    patterns = [pattern for charts in layout.values() for chart in charts.values() for pattern in chart]
    for pattern in patterns:
        assert any(re.match(pattern, tag) for tag in tags), pattern
    matched = {tag for tag in tags if any(re.match(pattern, tag) for pattern in patterns)}
    assert tags - matched == {"epoch", "val/acc5"}


def test_custom_scalars_omits_metrics_not_logged(tmp_path):
    events, _ = train_on_digits(tmp_path, CustomScalarLayout())
    assert read_layout(events) == {
        "Is it learning?": {
            "accuracy": ["train/acc1$", "train/acc1_epoch$", "val/acc1$"],
            "loss": ["train/loss$", "train/loss_epoch$", "val/loss$"],
            "learning rate": ["lr$"],
        }
    }


@pytest.mark.parametrize("can_read_utilization", [True, False])
def test_custom_scalars_gpu_charts_match_readable_stats(can_read_utilization):
    gpu_stats = GpuStats()
    gpu_stats.can_read_utilization = can_read_utilization
    trainer = SimpleNamespace(callbacks=[gpu_stats], strategy=SimpleNamespace(root_device=torch.device("cuda", 0)))
    charts = {"peak GPU memory, GiB": ["perf/gpu_allocated$", "perf/gpu_reserved$"]}
    if can_read_utilization:
        charts["GPU utilization"] = ["perf/gpu_use$"]
    assert custom_scalar_layout(trainer)["Is it fast, and what limits it?"] == charts


def test_write_once_callbacks_are_silent_after_resume(tmp_path):
    callback_types = CustomScalarLayout, LayerTable, Graph, Filters
    callbacks = [callback_type() for callback_type in callback_types]
    events, trainer = train_on_digits(tmp_path / "first", *callbacks, epochs=1)
    assert {"custom_scalars__config__", "layers/text_summary"} <= set(events.Tags()["tensors"])
    assert events.Tags()["graph"]
    assert [image.step for image in events.Images("net/filters")] == [0, 3]
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    callbacks = [callback_type() for callback_type in callback_types]
    events, _ = train_on_digits(tmp_path / "second", *callbacks, resume=tmp_path / "last.ckpt")
    assert events.Tags()["tensors"] == []
    assert not events.Tags()["graph"]
    assert [image.step for image in events.Images("net/filters")] == [7]


def test_filters_write_an_image_after_each_epoch(tmp_path):
    events, _ = train_on_digits(tmp_path, Filters(max_time_fraction=1.0), epochs=3)
    images = events.Images("net/filters")
    assert [image.step for image in images] == [0, 3, 7, 11]
    assert {(image.width, image.height) for image in images} == {(350, 2 * (5 * 22 + 2))}
    assert images[0].encoded_image_string != images[-1].encoded_image_string


class LinearNet(nn.Module):
    """(N, 1, 32, 32) -> (N, 10), without convolutions."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(64, 10))

    def forward(self, x):
        return self.layers(x)


def test_filters_net_without_convolution_is_skipped(tmp_path, caplog):
    events, _ = train_on_digits(tmp_path, Filters(max_time_fraction=1.0), Histograms(), net=LinearNet(), epochs=1)
    assert events.Tags()["images"] == []
    assert [record for record in caplog.records if record.name.startswith("cnnzoo")] == []
    assert "activations/layers.2" in events.Tags()["histograms"]


def test_first_layer_weight_found_in_every_family():
    families = {info(name).family: name for name in list_models()}
    for name in families.values():
        with torch.device("meta"):
            weight = first_layer_weight(create_model(name, in_channels=3))
        assert weight is not None, name
        assert weight.shape[1] == 3


def test_first_layer_weight_sharded_is_none():
    net = nn.Sequential(nn.Conv2d(3, 4, 3))
    net[0].weight.data = net[0].weight.data.flatten()[:7]
    assert first_layer_weight(net) is None


def test_histograms_every_second_epoch_are_written(tmp_path):
    net = create_model("lenet5", in_channels=1)
    events, _ = train_on_digits(tmp_path, Histograms(every_n_epochs=2), net=net, epochs=5)
    tags = events.Tags()["histograms"]
    layers = [name for name, module in net.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    parameters = [name for name, _ in net.named_parameters()]
    assert len(layers) == 5
    assert set(tags) == {f"activations/{name}" for name in layers} | {f"weights/{name}" for name in parameters}
    for tag in tags:
        assert [event.step for event in events.Histograms(tag)] == [7, 15]
    assert not any(module._forward_hooks for module in net.modules())


def test_write_histogram_counts_finite_values_only(tmp_path):
    values = torch.cat([torch.arange(128.0), torch.tensor([float("nan"), float("inf")])])
    with SummaryWriter(str(tmp_path)) as writer:
        write_histogram(writer, "many", values, 3)
        write_histogram(writer, "same", torch.full((5,), 2.0), 3)
        write_histogram(writer, "none", torch.tensor([float("nan")]), 3)
    events = read_events(tmp_path)
    assert events.Tags()["histograms"] == ["many", "same"]
    (many,), (same,) = events.Histograms("many"), events.Histograms("same")
    histogram = many.histogram_value
    assert (histogram.min, histogram.max, histogram.num, histogram.sum) == (0, 127, 128, 127 * 64)
    assert histogram.sum_squares == pytest.approx(sum(n * n for n in range(128)))
    assert histogram.bucket == [2.0] * 64
    assert histogram.bucket_limit[-1] == 127
    assert (same.histogram_value.num, same.histogram_value.bucket) == (5, [5.0])


def test_histograms_interval_of_zero_raises():
    with pytest.raises(UserError, match=r"callbacks\.histograms\.every_n_epochs=0"):
        Histograms(every_n_epochs=0)


def test_layer_table_lists_the_layers_of_the_network(tmp_path):
    events, _ = train_on_digits(tmp_path, LayerTable(), epochs=1)
    (event,) = events.Tensors("layers/text_summary")
    text = event.tensor_proto.string_val[0].decode()
    assert text.startswith("**lenet5** on 1x32x32: 61,706 parameters, ")
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")][1:]
    assert sum(int(row[3].replace(",", "")) for row in rows if len(row) > 3 and row[3]) == 61706
    assert rows[0][2] == "6x28x28"


def test_layer_table_long_net_mentions_depth_all():
    with torch.device("meta"):
        network = trace_layers(create_model("resnet50"), (3, 224, 224))
    text = markdown_table("resnet50", network, (3, 224, 224))
    assert "levels are shown; `describe.py` with `depth=all` shows all of them" in text


def test_write_hparams_puts_overrides_and_key_metrics_first(tmp_path):
    table = {"model": "lenet5", "optimizer.lr": 0.1, "data": "digits", "ema": True}
    metrics = {"train/loss": 0.3, "val/acc1": 0.9, "test/acc1": 0.8}
    with SummaryWriter(str(tmp_path)) as writer:
        write_hparams(writer, table, metrics, first={"optimizer.lr"}, step=7)
    events = read_events(tmp_path)
    content = events.SummaryMetadata("_hparams_/experiment").plugin_data.content
    experiment = HParamsPluginData.FromString(content).experiment
    assert {info.name: info.differs for info in experiment.hparam_infos} == {
        "model": False,
        "optimizer.lr": True,
        "data": False,
        "ema": False,
    }
    names = [metric.name.tag for metric in experiment.metric_infos]
    assert names == ["result/test/acc1", "result/val/acc1", "result/train/loss"]
    for name in names:
        ((event),) = events.Scalars(name)
        assert (event.step, event.value) == (7, pytest.approx(metrics[name.removeprefix("result/")]))
