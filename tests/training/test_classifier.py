"""The training step: losses, metrics, parameter groups, against what is computed by hand."""

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from cnnzoo.errors import UserError
from cnnzoo.training.classifier import Classifier, topk_correct


class Net(nn.Module):
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


def still(parameters):
    return torch.optim.SGD(parameters, lr=0.0)


def test_hits_counts_the_label_among_the_k_largest():
    logits = torch.tensor([[0.1, 0.5, 0.3], [0.9, 0.2, 0.3]])
    labels = torch.tensor([2, 1])
    assert topk_correct(logits, labels, 1).tolist() == [0, 0]
    assert topk_correct(logits, labels, 2).tolist() == [1, 0]
    assert topk_correct(logits, labels, 5).tolist() == [1, 1]


def test_figures_are_means_over_images_not_over_batches(batch):
    net = Net()
    trainer = fit(Classifier(net, optimizer=still), *batch)
    logits = net.eval()(batch[0])
    now = trainer.callback_metrics
    assert now["val/loss"].item() == pytest.approx(F.cross_entropy(logits, batch[1]).item(), rel=1e-5)
    assert now["val/acc1"].item() == pytest.approx((logits.argmax(1) == batch[1]).float().mean().item())
    assert now["train/loss_epoch"].item() == pytest.approx(now["val/loss"].item(), rel=1e-5)


@pytest.mark.filterwarnings("error:.*nan.*")
def test_a_loss_that_is_no_number_is_not_left_out_of_the_mean(batch):
    batch[0][7] = float("nan")
    now = fit(Classifier(Net(), optimizer=still), *batch).callback_metrics
    assert now["train/loss_epoch"].isnan()
    assert now["val/loss"].isnan()


def test_auxiliary_losses_and_label_smoothing_count_in_training_alone(batch):
    net = Net()
    trainer = fit(Classifier(net, optimizer=still, aux_weight=0.3, label_smoothing=0.1), *batch)
    logits, (aux,) = net.forward_with_aux(batch[0])
    main = F.cross_entropy(logits, batch[1], label_smoothing=0.1)
    expected = main + 0.3 * F.cross_entropy(aux, batch[1], label_smoothing=0.1)
    assert trainer.callback_metrics["train/loss_epoch"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert trainer.callback_metrics["val/loss"].item() == pytest.approx(
        F.cross_entropy(logits, batch[1]).item(), rel=1e-5
    )


def test_only_weights_decay(batch):
    classifier = Classifier(Net(), optimizer=lambda groups: torch.optim.SGD(groups, lr=0.1, weight_decay=0.5))
    trainer = fit(classifier, *batch)
    decay = {id(p): group["weight_decay"] for group in trainer.optimizers[0].param_groups for p in group["params"]}
    for name, parameter in classifier.net.named_parameters():
        assert decay[id(parameter)] == (0.5 if name in ("head.weight", "aux.weight") else 0.0)


def test_the_schedule_gets_the_trainers_own_number_of_steps(batch):
    seen = {}

    def schedule(optimizer, **numbers):
        seen.update(numbers)
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)

    fit(Classifier(Net(), optimizer=still, scheduler=schedule), *batch, accumulate_grad_batches=3)
    assert seen == {"total_steps": 1, "steps_per_epoch": 1.0}


@pytest.mark.parametrize("channels_last", [True, False])
def test_the_memory_format_is_the_one_asked_for(channels_last):
    net = nn.Conv2d(3, 8, 3)
    classifier = Classifier(net, optimizer=still, channels_last=channels_last)
    assert net.weight.is_contiguous(memory_format=torch.channels_last) == channels_last
    assert classifier(torch.rand(2, 3, 8, 8)).is_contiguous(memory_format=torch.channels_last) == channels_last


def test_label_smoothing_out_of_range_is_an_error():
    with pytest.raises(UserError, match=r"label_smoothing=1\.5"):
        Classifier(Net(), optimizer=still, label_smoothing=1.5)
