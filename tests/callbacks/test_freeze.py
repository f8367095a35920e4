"""Training the head alone: which tensors change, and in which mode the modules are."""

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, TensorDataset

import cnnzoo
from cnnzoo.callbacks.freeze import FreezeBackbone
from cnnzoo.models.factory import head_parameters
from cnnzoo.training.classifier import Classifier


class Recorder(pl.Callback):
    """Records after each epoch which tensors have changed since the epoch before."""

    def __init__(self):
        self.changed, self.modes, self._state = [], [], {}

    def on_train_start(self, trainer, pl_module):
        self._state = {name: value.clone() for name, value in pl_module.net.state_dict().items()}

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.modes.append({name for name, module in pl_module.net.named_modules() if module.training})

    def on_train_epoch_end(self, trainer, pl_module):
        state = {name: value.clone() for name, value in pl_module.net.state_dict().items()}
        self.changed.append({name for name in state if not torch.equal(state[name], self._state[name])})
        self._state = state


def fit(net, epochs, max_epochs=2):
    torch.manual_seed(0)
    data = TensorDataset(torch.randn(16, 3, 32, 32), torch.randint(10, (16,)))
    recorder = Recorder()
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=max_epochs, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
        callbacks=[FreezeBackbone(epochs, head_parameters(net)), recorder],
    )  # fmt: skip
    loader = DataLoader(data, batch_size=8)
    trainer.fit(Classifier(net, optimizer=lambda groups: torch.optim.SGD(groups, lr=0.1)), loader, loader)
    return recorder


@pytest.mark.parametrize("name", ["resnet20", "lenet5"])
def test_freeze_changes_only_the_head_at_first(name):
    net = cnnzoo.create_model(name, num_classes=10)
    head = set(head_parameters(net))
    recorder = fit(net, epochs=1)
    assert recorder.changed[0] == head
    assert recorder.changed[1] == set(net.state_dict())
    assert all(parameter.requires_grad for parameter in net.parameters())


def test_freeze_evaluates_the_backbone_in_every_step():
    net = cnnzoo.create_model("resnet20", num_classes=10)
    recorder = fit(net, epochs=2, max_epochs=3)
    everything = {name for name, _ in net.named_modules()}
    assert recorder.modes == [{"fc"}] * 4 + [everything] * 2


def test_head_parameters_include_auxiliary_heads():
    net = cnnzoo.create_model("googlenet", num_classes=10, aux_logits=True)
    names = {name.rpartition(".")[0] for name in head_parameters(net)}
    assert names == {"fc", "aux1.fc2", "aux2.fc2"}
