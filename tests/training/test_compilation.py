"""`compile=...`: what is compiled, how often, and that a short batch is not."""

from types import SimpleNamespace

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

import cnnzoo
from cnnzoo.training.compilation import compile_network


@pytest.fixture
def graphs(monkeypatch):
    """The graphs that torch.compile has compiled; they run as they are, because Inductor takes long."""
    compiled = []

    def compile_graph(self, graph, example_inputs):
        compiled.append(graph)
        return graph.forward

    monkeypatch.setattr(torch._TorchCompileInductorWrapper, "__call__", compile_graph)
    torch.compiler.reset()
    yield compiled
    torch.compiler.reset()


class SmallNet(nn.Module):
    """A network with an auxiliary head: (N, 1, 8, 8) -> (N, 3)."""

    def __init__(self):
        super().__init__()
        self.conv, self.head, self.aux_head = nn.Conv2d(1, 2, 3), nn.Linear(72, 3), nn.Linear(72, 3)

    def forward(self, images):
        return self.head(self.conv(images).flatten(1))

    def forward_with_aux(self, images):
        features = self.conv(images).flatten(1)
        return self.head(features), [self.aux_head(features)]


@pytest.mark.parametrize("mode", [True, "default", "reduce-overhead", "max-autotune"])
def test_only_full_batches_run_compiled(mode, graphs):
    net, data = SmallNet(), SimpleNamespace(batch_size=8)
    images = torch.rand(8, 1, 8, 8)
    expected = net(images)
    compile_network(net, mode, data)
    for size in (8, 8, 5, 3, 8):
        torch.testing.assert_close(net(images[:size]), expected[:size])
    assert len(graphs) == 1
    data.batch_size = 4  # lowered for a small data set, after the network was compiled
    for size in (4, 8, 4):
        torch.testing.assert_close(net(images[:size]), expected[:size])
    assert len(graphs) == 2


def test_auxiliary_heads_and_evaluation_compile_once_each(graphs):
    net, images = SmallNet(), torch.rand(8, 1, 8, 8)
    expected = net.forward_with_aux(images)
    compile_network(net, "default", SimpleNamespace(batch_size=8), with_aux=True)
    for size in (8, 8, 5):
        logits, (aux_logits,) = net.forward_with_aux(images[:size])
        torch.testing.assert_close(logits, expected[0][:size])
        torch.testing.assert_close(aux_logits, expected[1][0][:size])
    assert len(graphs) == 1
    net.eval()
    with torch.inference_mode():
        for size in (8, 8, 5):
            torch.testing.assert_close(net(images[:size]), expected[0][:size])
    assert len(graphs) == 2


def test_each_image_size_is_compiled_once(graphs):
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    compile_network(net, "default", SimpleNamespace(batch_size=8))
    for size in [*range(8, 29), *range(8, 29)]:
        net(torch.rand(8, 1, size, size))
    assert len(graphs) == 21  # torch's own limit is 8


@pytest.mark.parametrize("data", ["digits", "folder"])  # the folder's batch size is lowered to 8
def test_run_compiles_training_and_evaluation_once(data, graphs, flowers, job, tmp_path):
    root = [f"data.root={flowers}"] if data == "folder" else []
    job("model=lenet", "compile=reduce-overhead", f"data={data}", *root, "trainer.max_epochs=1")
    assert len(graphs) == 2  # both sets have shorter batches as well
    assert EventAccumulator(str(tmp_path / "run")).Reload().Tags()["graph"]
    assert not cnnzoo.load_run(tmp_path / "run").training
