"""The data module, with and without a Lightning trainer."""

import multiprocessing
from functools import partial
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch

from cnnzoo.data.datamodule import DataModule
from cnnzoo.data.datasets.builtin import Digits, Synthetic
from cnnzoo.data.datasets.folder import ImageFolder
from cnnzoo.data.loaders.torch_loader import TorchLoader
from cnnzoo.data.transforms.augment import Augment
from cnnzoo.errors import UserError
from tests.helpers.loaders import DALI, GPU_DATASET, LOADERS, NO_WORKERS, loader_params


class Net(pl.LightningModule):
    """One layer. It records each batch as (stage, epoch, sum of the images, labels)."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.LazyLinear(10)
        self.batches = []

    def step(self, stage, batch):
        images, labels = batch
        assert images.dtype == torch.float32
        assert images.is_contiguous(memory_format=torch.channels_last)
        self.batches.append((stage, self.current_epoch, float(images.double().sum()), labels.tolist()))
        return torch.nn.functional.cross_entropy(self.layer(images.flatten(1)), labels)

    def training_step(self, batch, _):
        return self.step("train", batch)

    def validation_step(self, batch, _):
        self.step("val", batch)

    def test_step(self, batch, _):  # noqa: PT019 - Lightning's name, not a test
        self.step("test", batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)

    def batches_of(self, stage, epoch=None):
        return [batch for batch in self.batches if batch[0] == stage and epoch in (None, batch[1])]


@pytest.fixture(params=loader_params([NO_WORKERS, DALI, GPU_DATASET]))
def loader(request):
    """A loader class with its options, as the configuration passes it."""
    options = dict(request.param)
    return partial(LOADERS[options.pop("loader", "torch")], **options)


def fit(data, **options):
    net = Net()
    no_output = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
    }
    trainer = pl.Trainer(accelerator="cpu", devices=1, **no_output, **options)
    trainer.fit(net, data)
    return net, trainer


def synthetic_data(**options):
    return DataModule(partial(Synthetic, images=100, image_size=8), batch_size=10, **options)


pytestmark = pytest.mark.filterwarnings("ignore:You requested to overfit", "ignore:.*Lazy modules")


def test_loader_gets_the_trainers_device(tree):
    """Training on the CPU alternates with the workers. Without a trainer the device is unknown."""
    root = tree({"train/a": 8, "train/b": 8, "val/a": 2, "val/b": 2})
    data = DataModule(ImageFolder, root=str(root), loader=partial(TorchLoader, workers=2), batch_size=2, image_size=8)
    list(data.train_dataloader())
    assert not data.train_dataloader()._pool.alternate
    data.teardown("fit")
    net, _ = fit(data, max_epochs=1)
    assert len(net.batches_of("train")) == 8
    list(data.train_dataloader())
    assert data.train_dataloader()._pool.alternate
    data.teardown("fit")


def test_properties_do_not_read_the_images():
    data = DataModule(Digits)
    assert (data.name, data.num_classes, data.classes[3]) == ("digits", 10, "3")
    assert (data.proposed_image_size, data.proposed_channels) == ((16, 16), 1)
    assert (data.requested_image_size, data.requested_channels, data.input_resolved) == (None, None, False)
    assert "_arrays" not in vars(data.source)


def test_loaders_without_a_trainer():
    data = DataModule(Digits)
    data.setup()
    images, _ = next(iter(data.train_dataloader()))
    assert images.shape == (64, 1, 16, 16)
    assert len(data.train_dataloader()) == 1293 // 64
    assert sum(len(labels) for _, labels in data.val_dataloader()) == 144
    assert sum(len(labels) for _, labels in data.test_dataloader()) == 360


def test_batches_are_normalized_after_transfer():
    data = DataModule(Digits, image_size=8, batch_size=1293)
    data.setup()
    images, labels = next(iter(data.train_dataloader()))
    normalized, same_labels = data.on_after_batch_transfer((images, labels), 0)
    assert same_labels is labels
    assert normalized.mean().item() == pytest.approx(0, abs=1e-3)
    assert normalized.std().item() == pytest.approx(1, abs=1e-3)


def test_requested_input_overrides_the_proposal():
    data = synthetic_data(image_size=12, channels=1)
    data.setup()
    assert next(iter(data.val_dataloader()))[0].shape[1:] == (1, 12, 12)


def test_set_input_overrides_the_request():
    data = synthetic_data(image_size=12)
    data.set_input(image_size=14, channels=1)
    data.setup("fit")
    assert next(iter(data.train_dataloader()))[0].shape[1:] == (1, 14, 14)
    data.set_input(image_size=9, channels=3)
    assert next(iter(data.train_dataloader()))[0].shape[1:] == (3, 9, 9)
    assert (data.resolved_image_size, data.resolved_channels) == ((9, 9), 3)


def test_mean_and_std_channels_and_precedence():
    data = DataModule(partial(Synthetic, images=100))
    data.source.mean = (0.1, 0.2, 0.6)
    data.set_input(image_size=8, channels=1)
    assert data.resolved_mean == pytest.approx([0.3])
    data = DataModule(Digits)
    data.set_input(image_size=16, channels=3)
    assert data.resolved_mean == Digits.mean * 3
    data = DataModule(Digits, augment=Augment(mean=(0.5,), std=(0.25,)))
    data.set_input(image_size=16, channels=1)
    assert (data.resolved_mean, data.resolved_std) == ((0.5,), (0.25,))
    data.set_input(image_size=16, channels=1, mean=[0.4], std=[0.3])
    assert (data.resolved_mean, data.resolved_std) == ((0.5,), (0.25,))  # those of `augment` take precedence
    data = DataModule(Digits)
    data.set_input(image_size=16, channels=1, mean=[0.4], std=[0.3])
    assert (data.resolved_mean, data.resolved_std) == ((0.4,), (0.3,))
    with pytest.raises(UserError, match=r"augment.std=.*2 numbers, expected 1 or 3"):
        data.set_input(image_size=16, channels=3, std=[0.3, 0.4])


@pytest.mark.parametrize(
    ("augment", "weights_eval_resize", "expected"),
    [
        (Augment(), None, 1.0),
        (Augment(crop="random_resized"), None, 256 / 224),
        (Augment(crop="random_resized"), 232 / 224, 232 / 224),
        (Augment(eval_resize=1.5), 232 / 224, 1.5),
    ],
)
def test_eval_resize_precedence(augment, weights_eval_resize, expected):
    data = DataModule(Digits, augment=augment)
    data.set_input(image_size=16, channels=1, eval_resize=weights_eval_resize)
    assert data.preprocess["eval_resize"] == expected
    data.set_input(image_size=16, channels=1)
    assert data.preprocess["eval_resize"] == (expected if augment.eval_resize else augment.effective_eval_resize)


def test_preprocess_equals_evaluation():
    data = DataModule(Digits, augment=Augment(crop="padded", eval_resize=1.25))
    data.setup()
    values = data.preprocess
    assert values == {"image_size": 16, "eval_resize": 1.25, "channels": 1, "mean": [0.3059], "std": [0.3761]}
    batch, _ = data.on_after_batch_transfer(next(iter(data.val_dataloader())), 0)
    assert torch.equal(data.preprocessor()(data.split("val").pixels[0]), batch[0])


def test_batch_size_above_data_size_is_an_error():
    data = DataModule(partial(Synthetic, images=100), batch_size=128)
    data.setup()
    with pytest.raises(UserError, match=r"batch_size=128: more than the 70 training images; type data.batch_size=70"):
        data.train_dataloader()


def test_loops_by_hand_equal_the_epochs_of_a_trainer(loader):
    options = {"augment": Augment(crop="padded", flip=0.5), "loader": loader}
    net, _ = fit(synthetic_data(**options), max_epochs=3)
    data = synthetic_data(**options)
    train_loader = data.train_dataloader()
    for epoch in range(3):
        batches = [data.on_after_batch_transfer(batch, 0) for batch in train_loader]
        sums = [("train", epoch, float(images.double().sum()), labels.tolist()) for images, labels in batches]
        assert sums == net.batches_of("train", epoch)
        assert data.train_dataloader() is train_loader
    assert len({str(net.batches_of("train", epoch)) for epoch in range(3)}) == 3


def test_no_test_split_gives_no_test_loader(tree):
    data = DataModule(ImageFolder, root=str(tree({"train/a": 3, "train/b": 3, "val/a": 2})), batch_size=2)
    data.setup()
    assert not data.has_test
    assert data.test_dataloader() == []
    assert synthetic_data().has_test


def test_training_epochs_are_complete_and_shuffled(loader):
    net, trainer = fit(synthetic_data(loader=loader), max_epochs=3, num_sanity_val_steps=2)
    orders = [[labels for *_, labels in net.batches_of("train", epoch)] for epoch in range(3)]
    assert [len(order) for order in orders] == [7, 7, 7]
    assert orders[0] != orders[1] != orders[2] != orders[0]
    assert len(net.batches_of("val")) == 1 + 3  # val is 10 images, one batch; the first is the sanity check
    trainer.test(net, synthetic_data(loader=loader), verbose=False)
    assert sum(len(labels) for *_, labels in net.batches_of("test")) == 20


class Position(pl.Callback):
    """Records the position in the data module's state before each batch."""

    def __init__(self):
        self.positions = []

    def on_train_batch_start(self, trainer, *_):
        self.positions.append(trainer.datamodule.state_dict()["batch"])


def test_resume_within_an_epoch(loader):
    position = Position()
    full, _ = fit(synthetic_data(loader=loader), max_epochs=2, callbacks=[position])
    assert position.positions == 2 * [0, 1, 2, 3, 4, 5, 6]
    data = synthetic_data(loader=loader)
    data.load_state_dict({**synthetic_data(loader=loader).state_dict(), "batch": 4})
    resumed, _ = fit(data, max_epochs=1, limit_train_batches=3, num_sanity_val_steps=0)
    assert resumed.batches_of("train", 0) == full.batches_of("train", 0)[4:]


def test_resume_with_other_data_is_an_error():
    state = synthetic_data().state_dict()
    assert state == {
        "batch": 0,
        "classes": [f"class{n}" for n in range(10)],
        "training images": 70,
        "images per step": 10,
    }
    with pytest.raises(
        UserError, match=r"^data\.batch_size=5: 5 images per step .* expected 10.* type data\.batch_size=10$"
    ):
        DataModule(partial(Synthetic, images=100, image_size=8), batch_size=5).load_state_dict(state)
    with pytest.raises(UserError, match=r"has changed since .*: training images were 70, are now 144$"):
        DataModule(partial(Synthetic, images=200, image_size=8), batch_size=10).load_state_dict(state)


def test_limit_train_batches_does_not_change_the_order(loader):
    full, _ = fit(synthetic_data(loader=loader), max_epochs=2)
    limited, _ = fit(synthetic_data(loader=loader), max_epochs=2, limit_train_batches=3)
    for epoch in range(2):
        assert len(limited.batches_of("train", epoch)) == 3
        assert limited.batches_of("train", epoch) == full.batches_of("train", epoch)[:3]


def test_validation_within_an_epoch_changes_nothing(loader, tree):
    """Train and val both read files, and `limit_val_batches` stops val early."""
    root = str(tree({"train/a": 9, "train/b": 9, "val/a": 4, "val/b": 4}))
    full, interleaved = (
        fit(
            DataModule(ImageFolder, root=root, batch_size=2, image_size=8, loader=loader),
            max_epochs=2,
            **options,
        )[0]
        for options in ({}, {"val_check_interval": 4, "limit_val_batches": 3})
    )
    assert interleaved.batches_of("train") == full.batches_of("train")
    assert len(full.batches_of("train")) == 2 * 9
    one_pass = [batch[2:] for batch in full.batches_of("val", 1)]
    assert len(one_pass) == 4
    val = [batch[2:] for batch in interleaved.batches_of("val")]
    assert val == one_pass[:2] + 4 * one_pass[:3]  # the sanity check has two batches


def test_fast_dev_run(loader):
    net, _ = fit(synthetic_data(loader=loader), fast_dev_run=True)
    assert [stage for stage, *_ in net.batches] == ["train", "val"]


def test_overfit_batches_repeat_the_same_images(loader):
    net, _ = fit(
        synthetic_data(augment=Augment(crop="padded", flip=0.5), loader=loader), max_epochs=2, overfit_batches=2
    )
    assert [batch[2:] for batch in net.batches_of("train", 0)] == [batch[2:] for batch in net.batches_of("train", 1)]
    assert len(net.batches_of("train", 0)) == 2


def test_files_with_workers_under_a_trainer(tree):
    root = str(tree({"a": 15, "b": 15}))
    runs = []
    for workers in (0, 2):
        data = DataModule(
            ImageFolder, root=root, batch_size=4, image_size=8, loader=partial(TorchLoader, workers=workers)
        )
        runs.append(fit(data, max_epochs=2, num_sanity_val_steps=0)[0].batches)
        assert not multiprocessing.active_children()  # teardown has stopped them
    assert runs[0] == runs[1]


def test_ranks_of_a_trainer_share_the_images(loader):
    class Trainer:
        world_size, num_devices, overfit_batches = 3, 3, 0

        class strategy:  # noqa: N801
            root_device = torch.device("cpu")

        def __init__(self, rank):
            self.global_rank = rank

    train, val = [], []
    for rank in range(3):
        data = synthetic_data(loader=loader)
        data.trainer = Trainer(rank)
        data.setup()
        train.append(len(list(data.train_dataloader())))
        val += [label for _, labels in data.val_dataloader() for label in labels.tolist()]
    assert train == [2, 2, 2]
    assert sorted(val) == sorted(synthetic_data().split("val").labels.tolist())


@pytest.mark.parametrize(("device", "expected"), [("cpu", False), ("mps", False), ("cuda", True)])
def test_transfer_is_non_blocking_only_on_cuda(device, expected):
    calls = []
    tensor = SimpleNamespace(
        dtype=torch.uint8, to=lambda device, non_blocking: calls.append((device.type, non_blocking))
    )
    DataModule(Digits).transfer_batch_to_device((tensor, tensor), torch.device(device), 0)
    assert calls == [(device, expected)] * 2
