"""The data module, by itself and under a Lightning trainer."""

import multiprocessing
from functools import partial

import pytest
import pytorch_lightning as pl
import torch

from cnnzoo.data.datamodule import DataModule
from cnnzoo.data.datasets.builtin import Digits, Synthetic
from cnnzoo.data.datasets.folder import ImageFolder
from cnnzoo.data.loaders.torch_loader import TorchLoader
from cnnzoo.data.transforms.augment import Augment
from cnnzoo.errors import UserError
from tests.helpers.loaders import DALI, LOADERS, NO_WORKERS, params


class Net(pl.LightningModule):
    """One layer, which writes down what it is given: (stage, epoch, sum of the images, labels)."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.LazyLinear(10)
        self.seen = []

    def step(self, stage, batch):
        images, labels = batch
        assert images.dtype == torch.float32
        assert images.is_contiguous(memory_format=torch.channels_last)
        self.seen.append((stage, self.current_epoch, float(images.double().sum()), labels.tolist()))
        return torch.nn.functional.cross_entropy(self.layer(images.flatten(1)), labels)

    def training_step(self, batch, _):
        return self.step("train", batch)

    def validation_step(self, batch, _):
        self.step("val", batch)

    def test_step(self, batch, _):  # noqa: PT019 - Lightning's name, not a test
        self.step("test", batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)

    def of(self, stage, epoch=None):
        return [seen for seen in self.seen if seen[0] == stage and epoch in (None, seen[1])]


@pytest.fixture(params=params([NO_WORKERS, DALI]))
def crew(request):
    return {**request.param}


def made_by(crew):
    """The loader of a crew, as the configuration hands it over."""
    return partial(LOADERS[crew.pop("loader", "torch")], **crew)


def fitted(data, **options):
    net = Net()
    quiet = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
    }
    trainer = pl.Trainer(accelerator="cpu", devices=1, **quiet, **options)
    trainer.fit(net, data)
    return net, trainer


def small(**options):
    return DataModule(partial(Synthetic, images=100, image_size=8), batch_size=10, **options)


pytestmark = pytest.mark.filterwarnings("ignore:You requested to overfit", "ignore:.*Lazy modules")


def test_loaders_know_where_their_batches_are_used(tree):
    """On the CPU their workers and training take turns; what becomes of batches without a trainer is not known."""
    root = tree({"train/a": 8, "train/b": 8, "val/a": 2, "val/b": 2})
    data = DataModule(ImageFolder, root=str(root), loader=partial(TorchLoader, workers=2), batch_size=2, image_size=8)
    list(data.train_dataloader())
    assert not data.train_dataloader()._pool.alternate
    data.teardown("fit")
    net, _ = fitted(data, max_epochs=1)
    assert len(net.of("train")) == 8
    list(data.train_dataloader())
    assert data.train_dataloader()._pool.alternate
    data.teardown("fit")


def test_its_facts_cost_nothing():
    data = DataModule(Digits)
    assert (data.name, data.num_classes, data.classes[3]) == ("digits", 10, "3")
    assert (data.proposed_image_size, data.proposed_channels) == (16, 1)
    assert (data.image_size, data.channels, data.input_resolved) == (None, None, False)
    assert "_everything" not in vars(data.source)


def test_it_works_without_a_trainer():
    data = DataModule(Digits)
    data.setup()
    images, _ = next(iter(data.train_dataloader()))
    assert images.shape == (64, 1, 16, 16)
    assert len(data.train_dataloader()) == 1293 // 64
    assert sum(len(labels) for _, labels in data.val_dataloader()) == 144
    assert sum(len(labels) for _, labels in data.test_dataloader()) == 360


def test_what_reaches_the_net_is_normalized():
    data = DataModule(Digits, image_size=8, batch_size=1293)
    data.setup()
    images, labels = next(iter(data.train_dataloader()))
    normal, same = data.on_after_batch_transfer((images, labels), 0)
    assert same is labels
    assert normal.mean().item() == pytest.approx(0, abs=1e-3)
    assert normal.std().item() == pytest.approx(1, abs=1e-3)


def test_what_was_typed_goes_before_what_is_proposed():
    data = small(image_size=12, channels=1)
    data.setup()
    assert next(iter(data.val_dataloader()))[0].shape[1:] == (1, 12, 12)


def test_settle_decides():
    data = small(image_size=12)
    data.set_input(image_size=14, channels=1)
    data.setup("fit")
    assert next(iter(data.train_dataloader()))[0].shape[1:] == (1, 14, 14)
    data.set_input(image_size=9, channels=3)
    assert next(iter(data.train_dataloader()))[0].shape[1:] == (3, 9, 9)
    assert (data.resolved_image_size, data.resolved_channels) == (9, 3)


def test_mean_and_std_follow_the_channels_and_the_nearest_wish():
    folder_like = partial(Synthetic, images=100)
    data = DataModule(folder_like)
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
    assert (data.resolved_mean, data.resolved_std) == ((0.5,), (0.25,))  # what was typed goes first
    data = DataModule(Digits)
    data.set_input(image_size=16, channels=1, mean=[0.4], std=[0.3])
    assert (data.resolved_mean, data.resolved_std) == ((0.4,), (0.3,))
    with pytest.raises(UserError, match=r"augment.std=.*2 numbers for 3 channel"):
        data.set_input(image_size=16, channels=3, std=[0.3, 0.4])


@pytest.mark.parametrize(
    ("augment", "weights", "found"),
    [
        (Augment(), None, 1.0),
        (Augment(crop="random_resized"), None, 256 / 224),
        (Augment(crop="random_resized"), 232 / 224, 232 / 224),
        (Augment(eval_resize=1.5), 232 / 224, 1.5),
    ],
)
def test_how_much_is_cut_off_in_evaluation(augment, weights, found):
    data = DataModule(Digits, augment=augment)
    data.set_input(image_size=16, channels=1, eval_resize=weights)
    assert data.preprocess["eval_resize"] == found
    data.set_input(image_size=16, channels=1)
    assert data.preprocess["eval_resize"] == (found if augment.eval_resize else augment.effective_eval_resize)


def test_preprocess_is_plain_and_does_what_evaluation_does():
    data = DataModule(Digits, augment=Augment(crop="padded", eval_resize=1.25))
    data.setup()
    values = data.preprocess
    assert values == {"image_size": 16, "eval_resize": 1.25, "channels": 1, "mean": [0.3059], "std": [0.3761]}
    batch, _ = data.on_after_batch_transfer(next(iter(data.val_dataloader())), 0)
    assert torch.equal(data.preprocessor()(data.split("val").pixels[0]), batch[0])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch_size": 0}, "data.batch_size=0: it must be a whole number, at least 1"),
        ({"batch_size": 1.5}, "data.batch_size=1.5"),
        ({"image_size": 0}, "data.image_size=0"),
        ({"image_size": "big"}, "data.image_size=big"),
        ({"channels": 2}, "data.channels=2: it can be 1 .* or 3"),
        ({"split_seed": -1}, "data.split_seed=-1"),
        ({"root": "/x"}, "data.root=/x: .*takes no root"),
    ],
)
def test_values_that_cannot_be(options, words):
    with pytest.raises(UserError, match=words):
        DataModule(Digits, **options)


def test_a_batch_larger_than_the_data():
    data = DataModule(partial(Synthetic, images=100), batch_size=128)
    data.setup()
    with pytest.raises(UserError, match=r"batch_size=128: more than the 70 training images; type data.batch_size=70"):
        data.train_dataloader()


def test_where_nothing_is_tested(tree):
    data = DataModule(ImageFolder, root=str(tree({"train/a": 3, "train/b": 3, "val/a": 2})), batch_size=2)
    data.setup()
    assert not data.has_test
    assert data.test_dataloader() == []
    assert small().has_test


def test_training_sees_every_epoch_whole_and_in_another_order(crew):
    loader = made_by(crew)
    net, trainer = fitted(small(loader=loader), max_epochs=3, num_sanity_val_steps=2)
    orders = [[labels for *_, labels in net.of("train", epoch)] for epoch in range(3)]
    assert [len(sampler) for sampler in orders] == [7, 7, 7]
    assert orders[0] != orders[1] != orders[2] != orders[0]
    assert len(net.of("val")) == 1 + 3  # val is 10 images, one batch: once for the sanity check
    trainer.test(net, small(loader=loader), verbose=False)
    assert sum(len(labels) for *_, labels in net.of("test")) == 20


class Position(pl.Callback):
    """What the data module says of its position before each batch."""

    def __init__(self):
        self.found = []

    def on_train_batch_start(self, trainer, *_):
        self.found.append(trainer.datamodule.state_dict()["batch"])


def test_training_goes_on_in_the_middle_of_an_epoch(crew):
    loader = made_by(crew)
    position = Position()
    whole, _ = fitted(small(loader=loader), max_epochs=2, callbacks=[position])
    assert position.found == 2 * [0, 1, 2, 3, 4, 5, 6]
    data = small(loader=loader)
    data.load_state_dict({**small(loader=loader).state_dict(), "batch": 4})
    rest, _ = fitted(data, max_epochs=1, limit_train_batches=3, num_sanity_val_steps=0)
    assert rest.of("train", 0) == whole.of("train", 0)[4:]


def test_it_goes_on_with_the_same_data_alone():
    state = small().state_dict()
    assert state == {
        "batch": 0,
        "classes": [f"class{n}" for n in range(10)],
        "training images": 70,
        "images per step": 10,
    }
    with pytest.raises(
        UserError, match=r"^data\.batch_size=5: 5 images per step .* had 10.* type data\.batch_size=10$"
    ):
        DataModule(partial(Synthetic, images=100, image_size=8), batch_size=5).load_state_dict(state)
    with pytest.raises(UserError, match=r"has changed since .*: training images were 70, are 144$"):
        DataModule(partial(Synthetic, images=200, image_size=8), batch_size=10).load_state_dict(state)


def test_limited_batches_leave_nothing_behind(crew):
    loader = made_by(crew)
    whole, _ = fitted(small(loader=loader), max_epochs=2)
    limited, _ = fitted(small(loader=loader), max_epochs=2, limit_train_batches=3)
    for epoch in range(2):
        assert len(limited.of("train", epoch)) == 3
        assert limited.of("train", epoch) == whole.of("train", epoch)[:3]


def test_validating_within_an_epoch_disturbs_nothing(crew, tree):
    """Train and val, both of files, at once; and a val that is cut short."""
    root = str(tree({"train/a": 9, "train/b": 9, "val/a": 4, "val/b": 4}))
    whole, often = (
        fitted(
            DataModule(ImageFolder, root=root, batch_size=2, image_size=8, loader=made_by(dict(crew))),
            max_epochs=2,
            **options,
        )[0]
        for options in ({}, {"val_check_interval": 4, "limit_val_batches": 3})
    )
    assert often.of("train") == whole.of("train")
    assert len(whole.of("train")) == 2 * 9
    once = [seen[2:] for seen in whole.of("val", 1)]
    assert len(once) == 4
    assert [seen[2:] for seen in often.of("val")] == once[:2] + 4 * once[:3]  # the sanity check is of two


def test_fast_dev_run(crew):
    net, _ = fitted(small(loader=made_by(crew)), fast_dev_run=True)
    assert [stage for stage, *_ in net.seen] == ["train", "val"]


def test_overfitting_has_the_same_images_each_epoch(crew):
    net, _ = fitted(
        small(augment=Augment(crop="padded", flip=0.5), loader=made_by(crew)), max_epochs=2, overfit_batches=2
    )
    assert [seen[2:] for seen in net.of("train", 0)] == [seen[2:] for seen in net.of("train", 1)]
    assert len(net.of("train", 0)) == 2


def test_files_under_a_trainer_with_workers(tree):
    root = str(tree({"a": 15, "b": 15}))
    runs = []
    for workers in (0, 2):
        data = DataModule(
            ImageFolder, root=root, batch_size=4, image_size=8, loader=partial(TorchLoader, workers=workers)
        )
        runs.append(fitted(data, max_epochs=2, num_sanity_val_steps=0)[0].seen)
        assert not multiprocessing.active_children()  # teardown has ended them
    assert runs[0] == runs[1]


def test_the_ranks_of_a_trainer_share_the_work(crew):
    loader = made_by(crew)

    class Trainer:
        world_size, overfit_batches = 3, 0

        class strategy:  # noqa: N801
            root_device = torch.device("cpu")

        def __init__(self, rank):
            self.global_rank = rank

    train, val = [], []
    for rank in range(3):
        data = small(loader=loader)
        data.trainer = Trainer(rank)
        data.setup()
        train.append(len(list(data.train_dataloader())))
        val += [label for _, labels in data.val_dataloader() for label in labels.tolist()]
    assert train == [2, 2, 2]
    assert sorted(val) == sorted(small().split("val").labels.tolist())
