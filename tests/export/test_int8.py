"""`quantize`: convolutions and linear layers with 8-bit weights, as torchao and onnxruntime compute them."""

import pytest
import torch
from torch import nn

from cnnzoo.data import Augment, Digits
from cnnzoo.data.datamodule import DataModule
from cnnzoo.export import int8
from cnnzoo.export.formats import FileNetwork, load_onnx, write_onnx
from tests.helpers.zoo import shallow_params

pytest.importorskip("torchao")


@pytest.fixture(scope="module")
def small_net():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(72, 5)
    )
    net[1].running_var.uniform_(0.5, 2)
    return net.eval()


@pytest.fixture(scope="module")
def batches():
    return list(torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(0)).split(16))


@pytest.fixture(scope="module")
def quantized(small_net, batches):
    return int8.quantize(small_net, batches)


def test_quantize_stores_weights_as_int8(quantized):
    int8_tensors = [tensor for tensor in quantized.state_dict().values() if tensor.dtype == torch.int8]
    assert {tuple(tensor.shape) for tensor in int8_tensors if tensor.ndim > 1} == {(8, 1, 3, 3), (5, 72)}
    floats = [tensor for tensor in quantized.state_dict().values() if tensor.is_floating_point()]
    assert all(tensor.ndim <= 1 for tensor in floats)  # biases and scales


@pytest.mark.parametrize("count", [1, 7])
def test_quantize_is_close_to_the_network(count, quantized, small_net, batches):
    images = batches[0][:count]
    with torch.no_grad():
        expected, logits = small_net(images), quantized(images)
    assert 0 < float((logits - expected).abs().max()) < 0.05 * float(expected.abs().max())


def test_onnxruntime_computes_the_quantized_network(quantized, small_net, batches, tmp_path):
    path = tmp_path / "net.onnx"
    write_onnx(quantized, batches[0][:7], {}, path)
    small_net.arguments, small_net.preprocess, small_net.classes = {}, None, ()
    loaded = FileNetwork(load_onnx(path), small_net)
    with torch.no_grad():
        expected, logits = quantized(batches[1]), loaded(batches[1].to(memory_format=torch.channels_last))
    assert float((logits - expected).abs().max()) < 0.02 * float(expected.abs().max())


class ResidualBlock(nn.Module):
    """Uses the same ReLU twice, as the blocks of ResNet do."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 1, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        return self.relu(self.conv2(self.relu(self.conv1(x))) + x)


def test_quantize_of_a_relu_that_is_used_twice(batches):
    net = ResidualBlock().eval()
    quantized = int8.quantize(net, batches)
    with torch.no_grad():
        expected, result = net(batches[0]), quantized(batches[0])
    assert float((result - expected).abs().max()) < 0.05 * float(expected.abs().max())
    assert sum(tensor.dtype == torch.int8 and tensor.ndim == 4 for tensor in quantized.state_dict().values()) == 2


@pytest.mark.zoo
@pytest.mark.parametrize(("name", "arguments"), [param for param in shallow_params() if not param.marks])
def test_quantize_of_every_family(name, arguments, build):
    net = build(name, num_classes=10, stem="small", **arguments)
    images = torch.randn(8, net.arguments["in_channels"], 32, 32)
    quantized = int8.quantize(net, [images])
    with torch.no_grad():
        expected, logits = net(images), quantized(images)
    assert float((logits - expected).abs().max()) < 0.2 * float(expected.abs().max())


def test_calibration_images_are_not_augmented():
    data = DataModule(Digits, augment=Augment(crop="padded", padding=0.5), batch_size=100)
    data.set_input(image_size=8, channels=1)
    batches = list(int8.calibration_batches(data))
    assert [len(batch) for batch in batches] == [100] * 6
    evaluated = data.variant(augment=Augment())
    evaluated.set_input(image_size=8, channels=1)
    known = {image.numpy().tobytes() for image, _ in _images(evaluated)}
    assert all(image.contiguous().numpy().tobytes() in known for image in torch.cat(batches))


def _images(data):
    for batch in data.build_loader("train"):
        images, labels = data.on_after_batch_transfer(batch, 0)
        yield from zip(images.contiguous(), labels, strict=True)
