"""Early stopping: which validation ends a run, and how a resumed run continues."""

from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, TensorDataset

from cnnzoo.callbacks import EarlyStopping
from cnnzoo.errors import UserError
from cnnzoo.training import resume


class Module(pl.LightningModule):
    """Its validation of each epoch logs the next of `values` as `name`."""

    def __init__(self, name, values):
        super().__init__()
        self.layer, self.name, self.values = torch.nn.Linear(1, 1), name, list(values)

    def training_step(self, batch, batch_idx):
        return self.layer(batch[0]).sum()

    def validation_step(self, batch, batch_idx):
        self.log(self.name, self.values[self.current_epoch])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trained_epochs(callback, values, **options):
    loader = DataLoader(TensorDataset(torch.ones(2, 1)))
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=len(values), logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, callbacks=[callback], **options,
    )  # fmt: skip
    trainer.fit(Module(callback.monitor, values), loader, loader)
    return trainer.current_epoch


@pytest.mark.parametrize(
    ("options", "values", "epochs"),
    [
        ({"patience": 2}, [0.5, 0.6, 0.6, 0.5, 0.9], 4),
        ({"patience": 2}, [0.5, 0.4, 0.6, 0.5, 0.7], 5),
        ({"patience": 1, "min_delta": 0.15}, [0.5, 0.6, 0.9], 2),
        ({"patience": 1, "monitor": "val/loss"}, [0.5, 0.4, 0.5, 0.3], 3),
        ({"patience": 1}, [0.5, float("nan"), 0.9], 2),
        ({"patience": None}, [0.5, 0.4, 0.3, 0.2], 4),
    ],
)
def test_run_stops_after_patience_validations(options, values, epochs):
    assert trained_epochs(EarlyStopping(**{"monitor": "val/acc1", **options}), values) == epochs


def test_patience_counts_validations_not_epochs():
    values = [0.0, 0.5, 0.0, 0.4, 0.0, 0.3, 0.0, 0.2]
    assert trained_epochs(EarlyStopping(monitor="val/acc1", patience=2), values, check_val_every_n_epoch=2) == 6


def test_log_line_says_why_the_run_stopped(caplog):
    caplog.set_level("INFO", "cnnzoo")
    trained_epochs(EarlyStopping(monitor="val/acc1", patience=2), [0.5, 0.6, 0.6, 0.5, 0.9])
    (record,) = [record for record in caplog.records if record.name == "cnnzoo.callbacks.early_stopping"]
    assert record.message == (
        "stopped early after 4 epochs: val/acc1 was not better than 0.6000 in 2 validations "
        "(callbacks.early_stopping.patience=2)"
    )


def test_resumed_run_counts_on_with_its_own_patience():
    saved = EarlyStopping(monitor="val/acc1", patience=3)
    trained_epochs(saved, [0.5, 0.4, 0.4])
    assert saved.wait_count == 2
    for patience, stops in ((1, True), (2, True), (4, False)):
        resumed, trainer = EarlyStopping(monitor="val/acc1", patience=patience), SimpleNamespace(should_stop=False)
        resumed.load_state_dict(saved.state_dict())
        resumed.on_fit_start(trainer, None)
        assert (resumed.patience, resumed.wait_count, trainer.should_stop) == (patience, 2, stops)


def test_resume_of_a_run_that_stopped_early_is_an_error(tmp_path, monkeypatch):
    saved, callback = (EarlyStopping(monitor="val/acc1", patience=2) for _ in range(2))
    trained_epochs(saved, [0.5, 0.4, 0.4, 0.4])
    checkpoint = {"cnnzoo": {"epochs": 3}, "global_step": 60, "callbacks": {saved.state_key: saved.state_dict()}}
    monkeypatch.setattr(resume, "find_checkpoint", lambda run_dir: (run_dir / "last.ckpt", checkpoint))
    (tmp_path / "metrics.json").write_text("{}")
    trainer = SimpleNamespace(max_epochs=30, early_stopping_callbacks=[callback])
    with pytest.raises(UserError, match=r"stopped early after 3 epochs; .* type callbacks.early_stopping.patience=4"):
        resume.prepare_resume(tmp_path, None, trainer, None)


@pytest.mark.parametrize(("name", "value"), [("patience", 0), ("patience", 1.5), ("min_delta", -0.1)])
def test_wrong_value_is_an_error(name, value):
    with pytest.raises(UserError, match=rf"callbacks\.early_stopping\.{name}={value}: expected"):
        EarlyStopping(monitor="val/acc1", **{name: value})
