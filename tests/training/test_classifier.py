"""The classifier's losses, metrics and parameter groups, against values computed by hand."""

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from cnnzoo.errors import UserError
from cnnzoo.training.classifier import Classifier
from cnnzoo.training.losses import build_mixing
from cnnzoo.training.metrics import topk_correct


class LinearNet(nn.Module):
    """A linear network with one auxiliary head."""

    def __init__(self):
        super().__init__()
        self.head, self.aux, self.norm = nn.Linear(12, 4), nn.Linear(12, 4), nn.BatchNorm1d(12)

    def forward(self, x):
        return self.head(x.flatten(1))

    def forward_with_aux(self, x):
        return self(x), [self.aux(x.flatten(1))]


def fit(classifier, images, labels, **options):
    loader = DataLoader(TensorDataset(images, labels), batch_size=5)
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, **options,
    )  # fmt: skip
    trainer.fit(classifier, loader, loader)
    return trainer


@pytest.fixture
def batch():
    torch.manual_seed(0)
    return torch.randn(13, 3, 2, 2), torch.randint(4, (13,))


def zero_lr_sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.0)


def test_topk_correct_finds_the_label_among_k_largest():
    logits = torch.tensor([[0.1, 0.5, 0.3], [0.9, 0.2, 0.3]])
    labels = torch.tensor([2, 1])
    assert topk_correct(logits, labels, 1).tolist() == [0, 0]
    assert topk_correct(logits, labels, 2).tolist() == [1, 0]
    assert topk_correct(logits, labels, 5).tolist() == [1, 1]


def test_metrics_are_means_over_images_not_batches(batch):
    net = LinearNet()
    trainer = fit(Classifier(net, optimizer=zero_lr_sgd), *batch)
    logits = net.eval()(batch[0])
    metrics = trainer.callback_metrics
    assert metrics["val/loss"].item() == pytest.approx(F.cross_entropy(logits, batch[1]).item(), rel=1e-5)
    assert metrics["val/acc1"].item() == pytest.approx((logits.argmax(1) == batch[1]).float().mean().item())
    assert metrics["train/loss_epoch"].item() == pytest.approx(metrics["val/loss"].item(), rel=1e-5)


@pytest.mark.filterwarnings("error:.*nan.*")
def test_mean_nan_is_reported(batch):
    batch[0][7] = float("nan")
    metrics = fit(Classifier(LinearNet(), optimizer=zero_lr_sgd), *batch).callback_metrics
    assert metrics["train/loss_epoch"].isnan()
    assert metrics["val/loss"].isnan()


def test_aux_loss_and_label_smoothing_only_in_training(batch):
    net = LinearNet()
    trainer = fit(Classifier(net, optimizer=zero_lr_sgd, aux_weight=0.3, label_smoothing=0.1), *batch)
    logits, (aux,) = net.forward_with_aux(batch[0])
    main_loss = F.cross_entropy(logits, batch[1], label_smoothing=0.1)
    expected = main_loss + 0.3 * F.cross_entropy(aux, batch[1], label_smoothing=0.1)
    assert trainer.callback_metrics["train/loss_epoch"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert trainer.callback_metrics["val/loss"].item() == pytest.approx(
        F.cross_entropy(logits, batch[1]).item(), rel=1e-5
    )


def test_weight_decay_is_only_for_weights(batch):
    classifier = Classifier(LinearNet(), optimizer=lambda groups: torch.optim.SGD(groups, lr=0.1, weight_decay=0.5))
    trainer = fit(classifier, *batch)
    decay = {id(p): group["weight_decay"] for group in trainer.optimizers[0].param_groups for p in group["params"]}
    for name, parameter in classifier.net.named_parameters():
        assert decay[id(parameter)] == (0.5 if name in ("head.weight", "aux.weight") else 0.0)


def test_scheduler_gets_the_number_of_steps(batch):
    arguments = {}

    def schedule(optimizer, **kwargs):
        arguments.update(kwargs)
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)

    fit(Classifier(LinearNet(), optimizer=zero_lr_sgd, scheduler=schedule), *batch, accumulate_grad_batches=3)
    assert arguments == {"total_steps": 1, "steps_per_epoch": 1.0}


@pytest.mark.parametrize("channels_last", [True, False])
def test_channels_last_sets_the_memory_format(channels_last):
    net = nn.Conv2d(3, 8, 3)
    classifier = Classifier(net, optimizer=zero_lr_sgd, channels_last=channels_last)
    assert net.weight.is_contiguous(memory_format=torch.channels_last) == channels_last
    assert classifier(torch.rand(2, 3, 8, 8)).is_contiguous(memory_format=torch.channels_last) == channels_last


def test_label_smoothing_out_of_range_is_an_error():
    with pytest.raises(UserError, match=r"label_smoothing=1\.5: expected a number >= 0 and < 1"):
        Classifier(LinearNet(), optimizer=zero_lr_sgd, label_smoothing=1.5)


@pytest.mark.parametrize("precision", ["32-true", "64-true", "bf16-true", "bf16-mixed"])
@pytest.mark.parametrize(
    "options", [{"class_weights": [1.0, 2.0, 0.5, 1.0]}, {"focal_gamma": 2.0}, {"mixing": build_mixing(0.2, 1.0, 4)}]
)
def test_loss_options_train_with_each_precision(batch, precision, options):
    net = LinearNet()
    before = net.head.weight.detach().clone()
    trainer = fit(Classifier(net, optimizer=lambda groups: torch.optim.SGD(groups, lr=0.5), **options), *batch,
                  precision=precision)  # fmt: skip
    assert trainer.callback_metrics["train/loss_epoch"].isfinite()
    assert not torch.equal(net.head.weight.detach().to(before.dtype), before)
