"""`load_data`: the loaders for a training loop in plain PyTorch."""

import multiprocessing
import os
import re
import signal
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch

import cnnzoo
from cnnzoo.data import Augment, Cache, Digits, ImageFolder, TorchLoader, load_data
from cnnzoo.data.datamodule import DataModule
from cnnzoo.errors import UserError
from tests.helpers import ROOT
from tests.helpers.images import save_image
from tests.helpers.loaders import LOADERS, needs_dali
from tests.helpers.ranks import run_ranks


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """24 training images, 6 of val and 6 of test, in two classes."""
    directory = tmp_path_factory.mktemp("images")
    for split, count in (("train", 12), ("val", 3), ("test", 3)):
        for label in "ab":
            for number in range(count):
                path = directory / split / label / f"{number}.{'jpg' if number % 2 else 'png'}"
                save_image(path, 18 + number, 22)
    return str(directory)


@pytest.fixture
def load(root):
    """`load_data` of the folder; the results are closed after the test."""
    results = []

    def load_data(**options):
        options = {"root": root, "batch_size": 4, "image_size": 16, "augment": "imagenet", "workers": 0, **options}
        results.append(cnnzoo.load_data("folder", **options))
        return results[-1]

    yield load_data
    for result in results:
        result.close()


def batches(loader):
    """The images and labels of an epoch, as lists that can be compared."""
    return [(images.clone(), labels.tolist()) for images, labels in loader]


def equal(first, second):
    return len(first) == len(second) and all(
        torch.equal(images, others) and labels == other_labels
        for (images, labels), (others, other_labels) in zip(first, second, strict=True)
    )


@pytest.mark.parametrize("loader", ["torch", pytest.param("dali", marks=needs_dali)])
def test_load_data_equals_the_data_module(load, root, loader):
    data = load(loader=loader, workers=1, cache="decoded")
    module = DataModule(
        ImageFolder,
        root=root,
        batch_size=4,
        image_size=16,
        augment=Augment(crop="random_resized", flip=0.5),
        cache=Cache("decoded"),
        loader=partial(LOADERS[loader], workers=1),
    )
    for _ in range(2):
        expected = [module.on_after_batch_transfer(batch, 0) for batch in module.train_dataloader()]
        assert equal(batches(data.train), [(images, labels.tolist()) for images, labels in expected])
    for split, expected in (("val", module.val_dataloader()), ("test", module.test_dataloader())):
        normalized = [module.on_after_batch_transfer(batch, 0) for batch in expected]
        assert equal(batches(getattr(data, split)), [(images, labels.tolist()) for images, labels in normalized])
    assert (len(data.train), len(data.val), data.classes) == (6, 2, ("a", "b"))
    assert [len(split.dataset) for split in (data.train, data.val, data.test)] == [24, 6, 6]
    assert (data.image_size, data.channels, data.device) == ((16, 16), 3, torch.device("cpu"))
    module.teardown()


def test_batches_are_normalized_channels_last(load):
    data = load(image_size=[12, 16], augment="none")
    images, labels = next(iter(data.val))
    assert (images.dtype, images.shape, labels.dtype) == (torch.float32, (4, 3, 12, 16), torch.int64)
    assert images.is_contiguous(memory_format=torch.channels_last)
    path = data.val.dataset.path(0)
    assert torch.equal(images[0], data.preprocess(path))
    raw, _ = next(iter(load(image_size=[12, 16], augment="none", normalize=False).val))
    assert (raw.dtype, raw.shape) == (torch.uint8, images.shape)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (ImageFolder.mean, ImageFolder.std))
    torch.testing.assert_close((raw / 255 - mean) / std, images, atol=1e-5, rtol=0)


def test_each_iteration_is_the_next_epoch(load):
    train = load().train
    first, second = batches(train), batches(train)
    assert not equal(first, second)
    train.set_epoch(0)
    assert equal(batches(train), first)
    assert equal(batches(train), first)
    train.sampler.set_epoch(1)  # as loops with a DistributedSampler do
    assert equal(batches(train), second)
    val = load().val
    assert equal(batches(val), batches(val))


@pytest.mark.parametrize("completed", [1, 4, 6])
@pytest.mark.parametrize("sets_epoch", [False, True])
def test_resume_continues_at_the_saved_batch(load, completed, sets_epoch):
    reference = load().train
    expected = [batch for _ in range(3) for batch in batches(reference)]
    train, epochs = load().train, iter(range(3))
    taken = []
    for epoch in epochs:
        for images, labels in train:
            taken.append((images, labels.tolist()))
            state = train.state_dict()
            if epoch == 1 and len(taken) == 6 + completed:
                break
        if epoch == 1:
            break
    assert (state["epoch"], state["batch"]) == divmod(len(taken), 6)
    resumed = load().train
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    for epoch in range(state["epoch"], 3):
        if sets_epoch:
            resumed.set_epoch(epoch)
        taken += batches(resumed)
    assert equal(taken, expected)


def test_set_epoch_to_another_epoch_starts_at_batch_0(load):
    train, reference = load().train, load().train
    train.load_state_dict({**train.state_dict(), "epoch": 3, "batch": 2})
    train.set_epoch(4)
    reference.set_epoch(4)
    assert equal(batches(train), batches(reference))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 8}, r"data.batch_size=8: .* type data.batch_size=4"),
        ({"seed": 1}, r"seed=1: gives another order .* pass seed=0"),
    ],
)
def test_resume_with_another_order_is_an_error(load, options, message):
    state = load().train.state_dict()
    with pytest.raises(UserError, match=message):
        load(**options).train.load_state_dict(state)


def test_no_test_split_is_none(tree):
    data = cnnzoo.load_data(root=str(tree({"train/a": 3, "train/b": 3, "val/a": 2})), batch_size=2, cache="none")
    assert data.test is None
    assert len(data.val.dataset) == 2


def test_cache_is_filled_and_bad_files_are_named(load, tree):
    data = load(cache="decoded")
    assert data.train.dataset.store.num_cached == 24
    assert data.val.dataset.store.num_cached == 6
    root = tree({"a": 12, "b": 12})
    (root / "a" / "003.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"003\.png: an empty file"):
        load(root=str(root), cache="encoded")
    skipped = load(root=str(root), cache="encoded", on_bad_file="skip")
    assert sum(len(labels) for split in (skipped.val, skipped.test) for _, labels in split) <= 7


def test_sources_are_names_classes_and_instances():
    expected = batches(cnnzoo.load_data("digits", augment="none").val)
    for source in (Digits, Digits()):
        assert equal(batches(cnnzoo.load_data(source, augment=Augment()).val), expected)
    data = cnnzoo.load_data("synthetic", images=100, classes=3, image_size=8, batch_size=10)
    assert (len(data.classes), len(data.train.dataset), data.image_size) == (3, 72, (8, 8))
    assert data.train.loader.split.pixels.shape[1] == 32  # `image_size` is that of the batches


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("digit", {}, "unknown data 'digit': did you mean digits"),
        (5, {}, "source=5: expected a name such as folder"),
        ("folder", {}, r"data=folder: expected data\.root="),
        (Digits(), {"root": "x"}, "root=x: the Digits exists already"),
        ("digits", {"root": "x"}, r"data\.root=x: data=digits reads no files"),
        ("digits", {"batchsize": 4}, "unknown argument 'batchsize': did you mean batch_size"),
        ("digits", {"augment": "imagnet"}, "unknown augment 'imagnet': did you mean imagenet"),
        ("digits", {"augment": 3}, "unknown augment '3': expected one of: cifar"),
        ("digits", {"cache": "decodd"}, "unknown cache 'decodd': did you mean decoded"),
        ("digits", {"loader": "dalli"}, "unknown loader 'dalli': did you mean dali"),
        ("digits", {"workers": -1}, r"loader\.workers=-1: expected a whole number >= 0"),
        ("digits", {"device": "gpu"}, "device=gpu: PyTorch has no such device here"),
        ("digits", {"image_size": 0}, r"data\.image_size=0: expected"),
        ("digits", {"batch_size": 2000}, r"data\.batch_size=2000: more than the 1293 training images"),
        ("digits", {"normalize": 1}, "normalize=1: expected true or false"),
        ("digits", {"even_batches": "no"}, "even_batches=no: expected true or false"),
        ("digits", {"rank": 1}, "world_size=None: expected a whole number >= 1 with rank"),
        ("digits", {"rank": 2, "world_size": 2}, "rank=2: expected a whole number from 0 to 1 with world_size"),
    ],
)
def test_wrong_argument_is_an_error(source, options, message):
    with pytest.raises(UserError, match=message) as error:
        cnnzoo.load_data(source, **options)
    assert len(str(error.value)) < 300


def test_processes_without_a_group_are_an_error(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(UserError, match=r"WORLD_SIZE=4: .*\.init_process_group\(\) or Accelerator\(\) before "):
        cnnzoo.load_data("digits")
    assert len(cnnzoo.load_data("digits", rank=0, world_size=4).train) == 1293 // 256


def test_workers_end_with_the_loaders(load, root):
    with load(workers=2) as data:
        next(iter(data.train))
        assert len(multiprocessing.active_children()) == 2
    assert not multiprocessing.active_children()
    with pytest.raises(RuntimeError, match="the loaders have been closed"):
        next(iter(data.train))
    data = cnnzoo.load_data(root=root, batch_size=4, image_size=16, workers=1)
    for _ in data.train:
        assert len(multiprocessing.active_children()) == 1
    del data
    assert not multiprocessing.active_children()


SCRIPT = """
import multiprocessing, os, signal, sys
import cnnzoo
data = cnnzoo.load_data(root=sys.argv[1], batch_size=4, workers=2, device="cpu")
for images, labels in data.train:
    modules = {"hydra", "omegaconf", "pytorch_lightning", "lightning", "torchmetrics"} & {*sys.modules}
    print(*[process.pid for process in multiprocessing.active_children()], *modules, flush=True)
    if sys.argv[2] == "exception":
        raise ValueError("in the loop")
    if sys.argv[2] == "interrupt":
        os.kill(os.getpid(), signal.SIGINT)
"""


@pytest.mark.parametrize(
    ("end", "code"),
    [
        pytest.param("normal", 0, marks=pytest.mark.long),
        ("exception", 1),
        pytest.param("interrupt", -signal.SIGINT, marks=pytest.mark.long),
    ],
)
def test_workers_end_with_the_process(root, end, code):
    """Nor does it import Lightning or Hydra."""
    process = subprocess.run([sys.executable, "-c", SCRIPT, root, end], capture_output=True, text=True, cwd=ROOT)
    assert process.returncode == code, process.stderr
    first, second = map(int, process.stdout.splitlines()[0].split())
    for pid in (first, second):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def load_on_rank(rank, root):
    data = cnnzoo.load_data(root=root, batch_size=2, image_size=8, workers=0, cache="decoded", device="cpu")
    labels = [labels.tolist() for _, labels in data.train]
    return labels, data.train.dataset.store.location[0], data.train.loader.sampler.rank


def test_ranks_share_the_images_and_the_cache(root, tmp_path):
    (first, store, rank), (second, other_store, other_rank) = run_ranks(load_on_rank, tmp_path, root)
    assert (rank, other_rank, store) == (0, 1, other_store)
    whole = cnnzoo.load_data(root=root, batch_size=4, image_size=8, workers=0, cache="none").train
    assert [a + b for a, b in zip(first, second, strict=True)] == [labels.tolist() for _, labels in whole]


def test_images_are_placed_on_the_gpu_before_the_first_batch(load, monkeypatch):
    placed = []
    monkeypatch.setattr(load_data, "_device", torch.device)
    monkeypatch.setattr(TorchLoader, "place_images", lambda loader, agree: placed.append(len(loader.split)))
    data = load(device="cuda:0", loader="torch", cache="decoded")
    assert (placed, data.train.loader.device) == ([24, 6], torch.device("cuda:0"))


def test_loader_class_and_options_of_arguments(load):
    data = load(loader=TorchLoader, workers=3, balance=True, channels=1, fit="pad", augment="light")
    assert (data.train.loader.workers, data.channels) == (3, 1)
    labels = np.concatenate([labels.numpy() for _, labels in load(balance=True).train])
    assert (labels == 0).sum() == (labels == 1).sum() == 12


def test_readme_loop_runs(root, capsys):
    (code,) = re.findall(r"```python\n([^`]*cnnzoo\.load_data[^`]*)```", (ROOT / "README.md").read_text())
    changes = {"~/flowers": root, "image_size=224": "image_size=32, batch_size=8", "resnet50": "resnet20", "90": "1"}
    assert f"```python\n{code}```" in (ROOT / "docs/load_data.md").read_text()
    for text, replacement in changes.items():
        assert code.count(text) == 1
        code = code.replace(text, replacement)
    namespace = {}
    exec(code, namespace)
    assert re.fullmatch(r"epoch 0: [01]\.\d{4}\n", capsys.readouterr().out)
    namespace["data"].close()
