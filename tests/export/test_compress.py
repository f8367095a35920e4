"""Deep Compression: pruning, shared weights, and the file that comes out."""

from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from cnnzoo import create_model, load_run
from cnnzoo.data import Augment, Digits
from cnnzoo.data.datamodule import DataModule
from cnnzoo.export import compress
from cnnzoo.export.compress import (
    SharedWeights,
    k_means,
    layer_weights,
    masks,
    merge_shared_weights,
    prune,
    save_compressed,
    share_weights,
)
from cnnzoo.export.export import float32_size


@pytest.fixture
def net():
    torch.manual_seed(0)
    return create_model("lenet5", num_classes=10, in_channels=1)


@pytest.fixture
def digits():
    data = DataModule(Digits, augment=Augment(crop="padded"), batch_size=256)
    data.set_input(image_size=32, channels=1)
    return data


quiet_trainer = partial(
    pl.Trainer,
    accelerator="cpu",
    limit_val_batches=0,
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
    use_distributed_sampler=False,
)


def zero_fraction(net):
    weights = torch.cat([weight.flatten() for weight in layer_weights(net).values()])
    return float((weights == 0).float().mean())


def test_layer_weights_are_those_of_convolutions_and_linear_layers():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))
    assert list(layer_weights(net)) == ["0.weight", "3.weight"]
    assert list(layer_weights(net[0])) == ["weight"]


def test_masks_keep_the_largest_weights_of_each_layer():
    weights = {"a": torch.randn(50, 40), "b": 1000 * torch.randn(30, 20)}
    kept = masks(weights, 0.6)
    counts = {name: int(mask.sum()) for name, mask in kept.items()}
    assert sum(counts.values()) == 2600 - int(0.6 * 2600)
    for name, weight in weights.items():
        smallest_kept = weight[kept[name]].abs().min()
        assert smallest_kept > weight[~kept[name]].abs().max()
        assert counts[name] > 0.1 * weight.numel()  # although the scales differ by 1000


@pytest.mark.parametrize("sparsity", [0.0, 0.9999])
def test_masks_at_the_limits(sparsity):
    weights = {"a": torch.randn(100, 100), "b": torch.randn(5)}
    kept = masks(weights, sparsity)
    assert sum(int(mask.sum()) for mask in kept.values()) == 10005 - int(sparsity * 10005)
    assert all(mask.any() for mask in kept.values())


def test_k_means_finds_separate_clusters():
    values = torch.tensor([0.9, -2.0, 1.1, 5.0, -2.0])
    centroids, codes = k_means(values, 3)
    torch.testing.assert_close(centroids, torch.tensor([-2.0, 1.0, 5.0]))
    assert codes.tolist() == [1, 0, 1, 2, 0]


def test_k_means_drops_empty_clusters():
    centroids, codes = k_means(torch.tensor([0.0, 1.0, 1.0]), 8)
    assert centroids.tolist() == [0.0, 1.0]
    assert codes.tolist() == [0, 1, 1]


def test_k_means_ends_near_a_local_optimum():
    values = torch.randn(5000, generator=torch.Generator().manual_seed(0))
    centroids, codes = k_means(values, 16)
    nearest = (values[:, None] - centroids).abs().argmin(1)
    assert torch.equal(codes, nearest)
    for index, centroid in enumerate(centroids):
        assert abs(float(values[codes == index].mean() - centroid)) < 3e-3


def test_k_means_of_nothing():
    centroids, codes = k_means(torch.zeros(0), 4)
    assert len(centroids) == len(codes) == 0


def test_share_weights_has_a_gradient_for_each_value():
    layer = nn.Linear(2, 2, bias=False)
    layer.weight.data = torch.tensor([[1.0, 3.0], [3.0, 0.0]])
    share_weights(layer, bits=1)
    (layer.weight * torch.tensor([[5.0, 7.0], [11.0, 13.0]])).sum().backward()
    codebook = layer.parametrizations.weight.original
    assert codebook.tolist() == [1.0, 3.0]
    assert codebook.grad.tolist() == [5.0, 18.0]  # the sum over the weights of a value; none for the zero


def test_merge_shared_weights_restores_parameters(net):
    prune(layer_weights(net), 0.5)
    names = set(net.state_dict())
    share_weights(net, bits=3)
    shared = {name: weight.detach().clone() for name, weight in layer_weights(net).items()}
    merge_shared_weights(net)
    assert set(net.state_dict()) == names
    for name, weight in layer_weights(net).items():
        assert isinstance(weight, nn.Parameter)
        assert torch.equal(weight, shared[name])
        assert len(weight[weight != 0].unique()) <= 8
    assert zero_fraction(net) == pytest.approx(0.5, abs=1e-3)


def test_shared_weights_of_a_pruned_layer_are_zero():
    weights = SharedWeights(torch.zeros(3, 3), 4)
    assert torch.equal(weights(weights.right_inverse(torch.zeros(3, 3))), torch.zeros(3, 3))


def test_pruner_keeps_zeros_while_the_network_learns(net, digits):
    trainer = quiet_trainer(max_epochs=2, callbacks=[compress.Pruner(0.8)])
    before = {name: weight.detach().clone() for name, weight in layer_weights(net).items()}
    compress._fine_tune(net, digits, trainer, lr=1e-3)
    assert zero_fraction(net) == pytest.approx(0.8, abs=1e-3)
    for name, weight in layer_weights(net).items():
        assert not torch.equal(weight[weight != 0], before[name][weight != 0])


def test_compress_writes_exactly_the_network(net, digits, tmp_path):
    compress.compress(net, digits, quiet_trainer, sparsity=0.7, bits=4, epochs=2, lr=1e-3)
    assert zero_fraction(net) >= 0.699
    assert all(len(weight.unique()) <= 17 for weight in layer_weights(net).values())
    net.preprocess, net.classes = digits.preprocessor(), digits.classes
    path = tmp_path / "lenet.safetensors"
    save_compressed(net, path)
    assert 10 * path.stat().st_size < float32_size(net)
    images = torch.randn(3, 1, 32, 32)
    for loaded in (load_run(path), create_model("lenet5", weights=path).eval()):
        assert torch.equal(loaded(images), net(images))
        assert loaded.classes == net.classes
        assert str(loaded.preprocess) == str(net.preprocess)


def test_compress_without_fine_tuning(net, digits):
    compress.compress(net, digits, pytest.fail, sparsity=0.6, bits=2, epochs=0, lr=1e-3)
    assert zero_fraction(net) >= 0.599
    assert all(len(weight.unique()) <= 5 for weight in layer_weights(net).values())
