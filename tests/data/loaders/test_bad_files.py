"""Files that cannot be read: named, or skipped, whoever reads them."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cnnzoo.data.datasets.folder import ImageFolder
from cnnzoo.data.split import Split
from cnnzoo.errors import UserError
from tests.helpers.images import save
from tests.helpers.loaders import each_loader, each_pool, load_epoch


@pytest.fixture
def damaged(tmp_path):
    """A function: a split of eight JPEGs of which one is damaged, and that one's path."""

    def make(damage):
        for number in range(8):
            path = save(tmp_path / "train" / "ab"[number % 2] / f"{number}.jpg", 60, 60)
            save(tmp_path / "val" / "a" / f"{number}.jpg")
        whole = path.read_bytes()
        split = ImageFolder(str(tmp_path)).split("train")
        middle = len(whole) // 2
        if damage == "gone":
            path.unlink()
        else:
            damages = {"cut": whole[:middle], "empty": b"", "text": b"text"}
            damages["middle"] = whole[:middle] + bytes(200) + whole[middle + 200 :]
            path.write_bytes(damages[damage])
        return split, str(path)

    return make


@each_pool
@pytest.mark.parametrize("damage", ["cut", "empty", "text", "gone", "middle"])
def test_a_file_that_cannot_be_read_is_named(damaged, loader_of, crew, damage):
    split, path = damaged(damage)
    said = rf"^{path}: cannot be read: .+; mend the file, remove it, or type data.on_bad_file=skip$"
    with pytest.raises(UserError, match=said) as caught:
        load_epoch(loader_of(split, 8, **crew))
    assert "\n" not in str(caught.value)


@each_pool
def test_a_bad_file_can_be_skipped(damaged, loader_of, crew, caplog):
    split, path = damaged("middle")
    bad = next(n for n in range(8) if split.path(n) == path)
    split = replace(split, labels=np.arange(8))
    options = {**crew, "on_bad_file": "skip", "image_size": 8}

    loader = loader_of(split, 8, train=False, **options)
    for epoch in (0, 1):
        ((images, labels),) = load_epoch(loader, epoch)
        assert labels.tolist() == [n for n in range(8) if n != bad]
        assert len(images) == 7
    assert [record.getMessage().split(": ")[1] for record in caplog.records] == [path]  # once

    loader = loader_of(split, 8, **options)
    (sampler,) = list(loader.sampler)
    ((images, labels),) = load_epoch(loader)
    at = sampler.tolist().index(bad)
    following = sampler.tolist()[(at + 1) % 8]
    assert labels.tolist() == [following if n == bad else n for n in sampler.tolist()]
    assert torch.equal(images[at], images[(at + 1) % 8])


@each_loader
@pytest.mark.parametrize("train", [True, False])
def test_nothing_but_bad_files(damaged, loader_of, crew, train):
    split, path = damaged("text")
    bad = next(n for n in range(8) if split.path(n) == path)
    alone = Split(split.labels[[bad]], paths=split.paths[[bad]])
    with pytest.raises(UserError, match=f"no file of a whole batch can be read, {path} for one"):
        load_epoch(loader_of(alone, 1, on_bad_file="skip", train=train, **crew))
