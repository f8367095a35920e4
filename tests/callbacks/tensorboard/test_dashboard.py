"""What TensorBoard shows of training itself: norms, layout, filters, histograms, the layer table, the GPU, the row."""

import re
from functools import partial
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout as LayoutMessage
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


def events_of(place):
    """All that was written there."""
    sizes = dict.fromkeys(("scalars", "images", "tensors", "histograms"), 0)
    return EventAccumulator(str(place), size_guidance=sizes).Reload()


def trained(place, *callbacks, net=None, epochs=2, resume=None, **options):
    """`epochs` of 4 steps on the digits, logged every second one: (the events, the trainer)."""
    torch.manual_seed(0)
    data = DataModule(Digits, batch_size=300)
    data.set_input(image_size=32, channels=1)
    net = net or create_model("lenet5", in_channels=1)
    facts = {"model": getattr(net, "arguments", {}), "preprocess": data.preprocess}
    trainer = pl.Trainer(
        logger=TensorBoardLogger(str(place), name=None, version=""),
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
    classifier = Classifier(net, optimizer=partial(torch.optim.SGD, lr=0.1), metadata=facts)
    trainer.fit(classifier, datamodule=data, ckpt_path=resume)
    return events_of(place), trainer


class Watch(pl.Callback):
    """The norms, by the definition, at every step; and what the gradients are after clipping."""

    def __init__(self):
        self.gradient, self.weight = [], []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        parameters = list(pl_module.net.parameters())
        self.gradient.append(torch.cat([p.grad.flatten() for p in parameters]).norm().item())
        self.weight.append(torch.cat([p.detach().flatten() for p in parameters]).norm().item())


def test_norms_are_those_before_clipping_at_the_steps_that_are_logged(tmp_path):
    watch = Watch()
    events, _ = trained(tmp_path, GradientNorm(), watch, gradient_clip_val=1e-3)
    for name, expected in (("norm/gradient", watch.gradient), ("norm/weight", watch.weight)):
        found = events.Scalars(name)
        assert [event.step for event in found] == [1, 3, 5, 7]
        assert [event.value for event in found] == pytest.approx([expected[step] for step in (1, 3, 5, 7)], rel=1e-5)
    assert min(watch.gradient) > 1e-2


def test_norms_are_of_all_batches_that_a_step_accumulates(tmp_path):
    watch = Watch()
    events, _ = trained(tmp_path, GradientNorm(), watch, accumulate_grad_batches=2)
    found = events.Scalars("norm/gradient")
    assert [event.step for event in found] == [1, 3]
    assert [event.value for event in found] == pytest.approx([watch.gradient[1], watch.gradient[3]], rel=1e-5)


def test_norms_of_parts_are_added_up_over_the_ranks(monkeypatch):
    strategy = SimpleNamespace(reduce=lambda square, reduce_op: {"sum": 2}[reduce_op] * square)
    monkeypatch.setattr("cnnzoo.callbacks.grad_norm.FSDPStrategy", SimpleNamespace)
    monkeypatch.setattr("cnnzoo.callbacks.grad_norm.is_logging_step", lambda trainer: True)
    logged = {}
    module = SimpleNamespace(log=lambda name, value: logged.update({name: value.item()}), device=torch.device("cpu"))
    part = nn.Parameter(torch.tensor([3.0, 4.0]))  # its gradients are elsewhere
    optimizer = SimpleNamespace(param_groups=[{"params": [part]}])
    GradientNorm().on_before_optimizer_step(SimpleNamespace(strategy=strategy), module, optimizer)
    assert logged == {"norm/gradient": 0.0, "norm/weight": pytest.approx(50**0.5)}


def layout_in(events):
    """Category -> chart -> patterns, as TensorBoard reads them."""
    (found,) = events.Tensors("custom_scalars__config__")
    message = LayoutMessage.FromString(found.tensor_proto.string_val[0])
    return {
        category.title: {chart.title: list(chart.multiline.tag) for chart in category.chart}
        for category in message.category
    }


def test_every_chart_of_the_layout_has_lines(tmp_path):
    events, _ = trained(
        tmp_path, CustomScalarLayout(), GradientNorm(), Throughput(), Evaluation(max_time_fraction=1.0), GpuStats()
    )
    layout = layout_in(events)
    assert list(layout) == ["Is it learning?", "Is it fast, and what limits it?", "Where is it wrong?"]
    tags = set(events.Tags()["scalars"]) | {"lr"}  # it is logged where there is a schedule, too
    patterns = [pattern for charts in layout.values() for lines in charts.values() for pattern in lines]
    for pattern in patterns:
        assert any(re.match(pattern, tag) for tag in tags), pattern
    matched = {tag for tag in tags if any(re.match(pattern, tag) for pattern in patterns)}
    assert tags - matched == {"epoch", "val/acc5"}


def test_the_layout_has_no_chart_for_what_is_not_logged(tmp_path):
    events, _ = trained(tmp_path, CustomScalarLayout())
    assert layout_in(events) == {
        "Is it learning?": {
            "accuracy": ["train/acc1$", "train/acc1_epoch$", "val/acc1$"],
            "loss": ["train/loss$", "train/loss_epoch$", "val/loss$"],
            "learning rate": ["lr$"],
        }
    }


@pytest.mark.parametrize("use", [True, False])
def test_a_gpu_has_charts_of_what_can_be_read(use):
    callback = GpuStats()
    callback.can_read_utilization = use
    trainer = SimpleNamespace(callbacks=[callback], strategy=SimpleNamespace(root_device=torch.device("cuda", 0)))
    memory = {"GPU memory, GiB, at its peak": ["perf/gpu_allocated$", "perf/gpu_reserved$"]}
    charts = {"GPU use": ["perf/gpu_use$"], **memory} if use else memory
    assert custom_scalar_layout(trainer)["Is it fast, and what limits it?"] == charts


def test_what_is_written_once_is_not_written_again_by_a_run_that_goes_on(tmp_path):
    once = CustomScalarLayout, LayerTable, Graph, Filters
    events, trainer = trained(tmp_path / "first", *(callback() for callback in once), epochs=1)
    assert {"custom_scalars__config__", "layers/text_summary"} <= set(events.Tags()["tensors"])
    assert events.Tags()["graph"]
    assert [picture.step for picture in events.Images("net/filters")] == [0, 3]
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    again = [callback() for callback in once]
    events, _ = trained(tmp_path / "second", *again, resume=tmp_path / "last.ckpt")
    assert events.Tags()["tensors"] == []
    assert not events.Tags()["graph"]
    assert [picture.step for picture in events.Images("net/filters")] == [7]


def test_filters_of_the_first_layer(tmp_path):
    events, _ = trained(tmp_path, Filters(max_time_fraction=1.0), epochs=3)
    found = events.Images("net/filters")
    assert [picture.step for picture in found] == [0, 3, 7, 11]
    assert {(picture.width, picture.height) for picture in found} == {(350, 2 * (5 * 22 + 2))}
    assert found[0].encoded_image_string != found[-1].encoded_image_string


class Plain(nn.Module):
    """(N, 1, 32, 32) -> (N, 10), without a convolution."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(64, 10))

    def forward(self, x):
        return self.layers(x)


def test_a_network_without_a_convolution_has_no_filters_and_trains(tmp_path, caplog):
    events, _ = trained(tmp_path, Filters(max_time_fraction=1.0), Histograms(), net=Plain(), epochs=1)
    assert events.Tags()["images"] == []
    assert [record for record in caplog.records if record.name.startswith("cnnzoo")] == []
    assert "activations/layers.2" in events.Tags()["histograms"]


def test_the_first_layer_of_every_family_is_found():
    families = {info(name).family: name for name in list_models()}
    for name in families.values():
        with torch.device("meta"):
            weight = first_layer_weight(create_model(name, in_channels=3))
        assert weight is not None, name
        assert weight.shape[1] == 3


def test_weights_that_are_parted_among_ranks_have_no_filters():
    net = nn.Sequential(nn.Conv2d(3, 4, 3))
    net[0].weight.data = net[0].weight.data.flatten()[:7]
    assert first_layer_weight(net) is None


def test_histograms_of_weights_and_activations_every_second_epoch(tmp_path):
    net = create_model("lenet5", in_channels=1)
    events, _ = trained(tmp_path, Histograms(every_n_epochs=2), net=net, epochs=5)
    tags = events.Tags()["histograms"]
    layers = [name for name, module in net.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert len(layers) == 5
    assert set(tags) == {f"activations/{name}" for name in layers} | {f"weights/{n}" for n, _ in net.named_parameters()}
    for tag in tags:
        assert [event.step for event in events.Histograms(tag)] == [7, 15]
    assert not any(module._forward_hooks for module in net.modules())


def test_a_histogram_counts_the_finite_values(tmp_path):
    values = torch.cat([torch.arange(128.0), torch.tensor([float("nan"), float("inf")])])
    with SummaryWriter(str(tmp_path)) as writer:
        write_histogram(writer, "many", values, 3)
        write_histogram(writer, "same", torch.full((5,), 2.0), 3)
        write_histogram(writer, "none", torch.tensor([float("nan")]), 3)
    events = events_of(tmp_path)
    assert events.Tags()["histograms"] == ["many", "same"]
    (many,), (same,) = events.Histograms("many"), events.Histograms("same")
    found = many.histogram_value
    assert (found.min, found.max, found.num, found.sum) == (0, 127, 128, 127 * 64)
    assert found.sum_squares == pytest.approx(sum(n * n for n in range(128)))
    assert found.bucket == [2.0] * 64
    assert found.bucket_limit[-1] == 127
    assert (same.histogram_value.num, same.histogram_value.bucket) == (5, [5.0])


def test_an_interval_is_at_least_one_epoch():
    with pytest.raises(UserError, match=r"callbacks\.histograms\.every_n_epochs=0"):
        Histograms(every_n_epochs=0)


def test_the_layer_table_is_that_of_the_network(tmp_path):
    events, _ = trained(tmp_path, LayerTable(), epochs=1)
    (found,) = events.Tensors("layers/text_summary")
    text = found.tensor_proto.string_val[0].decode()
    assert text.startswith("**lenet5** on 1x32x32: 61,706 parameters, ")
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")][1:]
    assert sum(int(row[3].replace(",", "")) for row in rows if len(row) > 3 and row[3]) == 61706
    assert rows[0][2] == "6x28x28"


def test_a_long_layer_table_says_how_to_open_the_rest():
    with torch.device("meta"):
        whole = trace_layers(create_model("resnet50"), (3, 224, 224))
    text = markdown_table("resnet50", whole, (3, 224, 224))
    assert "levels are opened; `describe.py` with `depth=all` opens the rest" in text


@pytest.fixture
def gpu(monkeypatch):
    """A trainer that has a GPU, and a module that keeps what is logged."""
    monkeypatch.setattr("cnnzoo.callbacks.gpu_stats.is_logging_step", lambda trainer: trainer.logs)
    monkeypatch.setattr("torch.cuda.max_memory_allocated", lambda device: 3 * 2**30)
    monkeypatch.setattr("torch.cuda.max_memory_reserved", lambda device: 4 * 2**30)
    clock = SimpleNamespace(perf_counter=lambda: clock.now, now=5.0)
    monkeypatch.setattr("cnnzoo.callbacks.gpu_stats.time", clock)
    logged = []
    module = SimpleNamespace(log=lambda name, value, rank_zero_only: logged.append((name, value)))
    strategy = SimpleNamespace(root_device=torch.device("cuda", 0))
    trainer = SimpleNamespace(strategy=strategy, is_global_zero=True, logs=True)
    return SimpleNamespace(trainer=trainer, module=module, logged=logged, clock=clock)


def step(callback, gpu):
    """What a training step makes the callback log."""
    gpu.logged.clear()
    callback.on_train_batch_end(gpu.trainer, gpu.module, None, None, 0)
    return dict(gpu.logged)


def test_the_gpu_s_memory_and_use_are_logged(gpu, monkeypatch):
    monkeypatch.setattr("torch.cuda.utilization", lambda device: 80)
    callback = GpuStats()
    callback.can_read_utilization = True
    memory = {"perf/gpu_allocated": 3.0, "perf/gpu_reserved": 4.0}
    assert step(callback, gpu) == {**memory, "perf/gpu_use": 0.8}
    gpu.clock.now += 0.5
    assert step(callback, gpu) == memory  # a reading was taken half a second ago
    gpu.clock.now += 0.5
    assert "perf/gpu_use" in step(callback, gpu)
    gpu.trainer.logs = False
    assert step(callback, gpu) == {}
    gpu.trainer.logs, gpu.trainer.is_global_zero = True, False
    assert step(callback, gpu) == {}


def test_a_gpu_whose_use_cannot_be_read_is_told_once(gpu, monkeypatch, caplog):
    caplog.set_level("INFO")

    def utilization(device):
        raise RuntimeError("Not Supported\nand more")

    monkeypatch.setattr("torch.cuda.utilization", utilization)
    callback = GpuStats()
    callback.can_read_utilization = True
    for _ in range(3):
        gpu.clock.now += 9
        assert list(step(callback, gpu)) == ["perf/gpu_allocated", "perf/gpu_reserved"]
    assert [record.getMessage() for record in caplog.records] == ["the GPU's use is not logged: Not Supported"]


def test_without_the_package_the_use_is_left_out_and_one_line_says_so(gpu, monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    callback = GpuStats()
    callback.on_train_start(gpu.trainer, gpu.module)
    assert "perf/gpu_use" not in step(callback, gpu)
    assert [record.getMessage() for record in caplog.records] == [
        "the GPU's use is not logged: pip install nvidia-ml-py"
    ]


def test_a_cpu_has_nothing_to_log(gpu):
    gpu.trainer.strategy.root_device = torch.device("cpu")
    assert step(GpuStats(), gpu) == {}


def test_the_row_of_hyperparameters_puts_first_what_was_typed(tmp_path):
    table = {"model": "lenet5", "optimizer.lr": 0.1, "data": "digits", "ema": True}
    figures = {"train/loss": 0.3, "val/acc1": 0.9, "test/acc1": 0.8}
    with SummaryWriter(str(tmp_path)) as writer:
        write_hparams(writer, table, figures, first={"optimizer.lr"}, step=7)
    events = events_of(tmp_path)
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
        assert (event.step, event.value) == (7, pytest.approx(figures[name.removeprefix("result/")]))
