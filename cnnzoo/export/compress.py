"""Deep Compression (Han et al., 2015, arXiv 1510.00149): prune, share weights, fine-tune, Huffman-code.

Departures from the paper: all layers are pruned together, by the score of LAMP (Lee et al., 2021, arXiv 2010.07611)
instead of a threshold that is chosen for each layer; the pruned fraction rises during one fine-tuning (Zhu and Gupta,
2017, arXiv 1710.01878) instead of in several rounds; and the optimizer is AdamW.
"""

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from cnnzoo.data.datamodule import DataModule
from cnnzoo.inference.weights_file import network_metadata
from cnnzoo.models.compressed import pack, unpack
from cnnzoo.runtime.files import atomic_write
from cnnzoo.training.classifier import Classifier
from cnnzoo.training.lr_schedules import cosine
from cnnzoo.training.multilabel_classifier import MultilabelClassifier

PRUNING_FRACTION = 0.7
"""The fraction of the epochs in which weights are pruned; in the others the shared values are fine-tuned."""
RAMP_FRACTION = 0.5
"""The fraction of the pruning in which the number of zeros rises; then it is constant."""
MASK_UPDATES = 50
"""How many times the pruned weights are selected while the number of zeros rises."""
MAX_ITERATIONS, TOLERANCE = 100, 1e-5
"""Of k-means, which ends when no centroid moves by more than this fraction of the range of the values."""

BuildTrainer = Callable[..., pl.Trainer]


def compress(
    net: nn.Module,
    data: DataModule,
    build_trainer: BuildTrainer,
    *,
    sparsity: float,
    bits: int,
    epochs: int,
    lr: float,
) -> None:
    """Prune and cluster the weights of `net` in place, and fine-tune it on `data`.

    net: built by `create_model`. Only the weights of convolutions and linear layers are compressed.
    data: whose images `net` takes.
    build_trainer: called with `max_epochs` and `callbacks`; returns a trainer of one device.
    sparsity: the fraction of these weights that become zero.
    bits: the weights of a layer that are not zero have at most 2**bits different values.
    epochs: of fine-tuning; 0 for none.
    lr: learning rate of AdamW.

    Afterwards the network has exactly the values that `save_compressed` writes.
    """
    weights = layer_weights(net)
    if epochs:
        data.setup("fit")  # both trainings share the filled cache
    pruning_epochs = min(epochs, max(1, round(PRUNING_FRACTION * epochs)))
    if pruning_epochs:
        _fine_tune(net, data, build_trainer(max_epochs=pruning_epochs, callbacks=[Pruner(sparsity)]), lr)
    else:
        prune(weights, sparsity)
    share_weights(net, bits)
    if epochs > pruning_epochs:
        trainer = build_trainer(max_epochs=epochs - pruning_epochs, callbacks=[])
        _fine_tune(net, data, trainer, lr)
    data.teardown()
    merge_shared_weights(net)
    tensors, metadata = pack(net.state_dict(), layer_weights(net))
    net.load_state_dict(unpack(tensors, {"compressed": metadata}))
    net.eval()


def save_compressed(net: nn.Module, path: Path) -> None:
    """Write a network that `compress` has changed to a .safetensors file, which `create_model(weights=)` reads."""
    from safetensors.torch import save

    tensors, compressed = pack(net.state_dict(), layer_weights(net))
    metadata = {**network_metadata(net), "compressed": compressed}
    with atomic_write(path, "wb") as file:
        file.write(save(tensors, {"cnnzoo": json.dumps(metadata)}))


def layer_weights(net: nn.Module) -> dict[str, Tensor]:
    """The weights of the convolutions and linear layers by their names in the state dict."""
    layers = {name: module for name, module in net.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)}
    return {f"{name}.weight".lstrip("."): layer.weight for name, layer in layers.items()}


class Pruner(pl.Callback):
    """Sets the smallest weights to zero while the network is trained.

    sparsity: the final fraction of zeros. The fraction rises as 1 - (1 - t)^3, first quickly and then slowly.
    """

    def __init__(self, sparsity: float) -> None:
        self.sparsity = sparsity
        self._masks: dict[str, Tensor] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._weights = layer_weights(pl_module.net)  # type: ignore[arg-type]
        self._ramp_steps = max(1, int(RAMP_FRACTION * trainer.estimated_stepping_batches))
        self._interval = max(1, self._ramp_steps // MASK_UPDATES)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if step <= self._ramp_steps and (step % self._interval == 0 or step == self._ramp_steps):
            progress = step / self._ramp_steps
            self._masks = masks(self._weights, self.sparsity * (1 - (1 - progress) ** 3))
        with torch.no_grad():
            for name, mask in self._masks.items():
                self._weights[name].mul_(mask)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        prune(self._weights, self.sparsity)


def masks(weights: Mapping[str, Tensor], sparsity: float) -> dict[str, Tensor]:
    """For each tensor which of its values to keep, as booleans; the fraction `sparsity` of all values is not kept.

    The score of a weight is its square over the sum of those squares in its tensor that are not smaller (LAMP). So no
    tensor loses all of its weights, and the scale of a tensor does not matter.
    """
    scores = {name: _lamp_scores(weight.detach()) for name, weight in weights.items()}
    together = torch.cat([score.flatten() for score in scores.values()])
    count = int(sparsity * len(together))
    if not count:
        return {name: torch.ones_like(score, dtype=torch.bool) for name, score in scores.items()}
    threshold = together.kthvalue(count).values
    return {name: score > threshold for name, score in scores.items()}


def prune(weights: Mapping[str, Tensor], sparsity: float) -> None:
    """Set the fraction `sparsity` of the weights to zero, in place."""
    with torch.no_grad():
        for name, mask in masks(weights, sparsity).items():
            weights[name].mul_(mask)


def _lamp_scores(weight: Tensor) -> Tensor:
    squares, order = weight.flatten().double().square().sort()
    not_smaller = squares.flip(0).cumsum(0).flip(0)
    scores = torch.empty_like(squares)
    scores[order] = squares / not_smaller.clamp(min=torch.finfo(torch.double).tiny)
    return scores.view(weight.shape)


class SharedWeights(nn.Module):
    """A parametrization: the weights of a layer are 0 or one of few values, which are the parameter.

    weight: whose zeros stay zeros; the others are clustered into at most `count` values.
    """

    indices: Tensor

    def __init__(self, weight: Tensor, count: int) -> None:
        super().__init__()
        kept = weight != 0
        self._codebook, codes = k_means(weight[kept], count)
        indices = torch.zeros_like(weight, dtype=torch.int32)
        indices[kept] = 1 + codes.int()  # 0 stands for a zero
        self.register_buffer("indices", indices)

    def forward(self, codebook: Tensor) -> Tensor:
        """(count,) -> the weights."""
        return torch.cat([codebook.new_zeros(1), codebook])[self.indices]

    def right_inverse(self, weight: Tensor) -> Tensor:
        """The first values of the parameter; torch calls it once."""
        return self._codebook


def share_weights(net: nn.Module, bits: int) -> None:
    """Replace the weights of each convolution and linear layer by at most 2**bits shared values and zeros."""
    for module in list(net.modules()):
        if isinstance(module, nn.Conv2d | nn.Linear):
            shared = SharedWeights(module.weight.detach(), 2**bits)
            parametrize.register_parametrization(module, "weight", shared, unsafe=True)


def merge_shared_weights(net: nn.Module) -> None:
    """Undo `share_weights`: the weights are plain parameters again, with the shared values."""
    modules: list[Any] = list(net.modules())
    for module in modules:
        if parametrize.is_parametrized(module, "weight"):
            weight = module.weight.detach().contiguous()
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=False)
            module.weight = nn.Parameter(weight)


def k_means(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Cluster numbers: (N,) -> centroids (count or fewer,) ascending, and for each number the index of its centroid.

    Lloyd's algorithm from evenly spaced centroids, which the paper found to work best because it keeps the few large
    weights. Centroids without numbers are dropped.
    """
    if not len(values):
        return values.new_zeros(0), values.new_zeros(0, dtype=torch.long)
    numbers = values.double()
    centroids = torch.linspace(float(numbers.min()), float(numbers.max()), count, dtype=torch.double)
    centroids = centroids.to(values.device)
    tolerance = TOLERANCE * float(centroids[-1] - centroids[0])
    for _ in range(MAX_ITERATIONS):
        codes = torch.bucketize(numbers, (centroids[1:] + centroids[:-1]) / 2)
        counts = torch.bincount(codes, minlength=count)
        means = torch.zeros_like(centroids).index_add_(0, codes, numbers) / counts
        means = means.where(counts > 0, centroids)
        is_converged = float((means - centroids).abs().max()) <= tolerance
        centroids = means
        if is_converged:
            break
    codes = torch.bucketize(numbers, (centroids[1:] + centroids[:-1]) / 2)
    used, codes = codes.unique(return_inverse=True)
    return centroids[used].to(values.dtype), codes


def _fine_tune(net: nn.Module, data: DataModule, trainer: pl.Trainer, lr: float) -> None:
    optimizer = partial(torch.optim.AdamW, lr=lr, weight_decay=0.0)
    thresholds: Any = getattr(net, "thresholds", None)
    if thresholds is not None:
        classifier: Classifier = MultilabelClassifier(
            net, num_classes=data.num_classes, thresholds=thresholds, optimizer=optimizer, scheduler=cosine
        )
    else:
        classifier = Classifier(net, optimizer=optimizer, scheduler=cosine, topk=(1,))
    classifier.train()
    trainer.fit(classifier, datamodule=data.variant())  # which ends with its own loaders
    net.cpu()
