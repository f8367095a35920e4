"""Files that cannot be read: named, or skipped, whoever reads them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from crews import epoch_of, every_crew, every_loader
from made_images import save

from cnnzoo.data.sources import Folder
from cnnzoo.data.split import Split
from cnnzoo.errors import UserError


@pytest.fixture
def damaged(tmp_path):
    """A function: a split of eight JPEGs of which one is damaged, and that one's path."""

    def make(damage):
        for number in range(8):
            path = save(tmp_path / "train" / "ab"[number % 2] / f"{number}.jpg", 60, 60)
            save(tmp_path / "val" / "a" / f"{number}.jpg")
        whole = path.read_bytes()
        split = Folder(str(tmp_path)).split("train")
        middle = len(whole) // 2
        if damage == "gone":
            path.unlink()
        else:
            damages = {"cut": whole[:middle], "empty": b"", "text": b"text"}
            damages["middle"] = whole[:middle] + bytes(200) + whole[middle + 200 :]
            path.write_bytes(damages[damage])
        return split, str(path)

    return make


@every_crew
@pytest.mark.parametrize("damage", ["cut", "empty", "text", "gone", "middle"])
def test_a_file_that_cannot_be_read_is_named(damaged, loader_of, crew, damage):
    split, path = damaged(damage)
    said = rf"^{path}: cannot be read: .+; mend the file, remove it, or type data.on_bad_file=skip$"
    with pytest.raises(UserError, match=said) as caught:
        epoch_of(loader_of(split, 8, **crew))
    assert "\n" not in str(caught.value)


@every_crew
def test_a_bad_file_can_be_skipped(damaged, loader_of, crew, caplog):
    split, path = damaged("middle")
    bad = next(n for n in range(8) if split.path(n) == path)
    split = replace(split, labels=np.arange(8))
    options = {**crew, "on_bad_file": "skip", "image_size": 8}

    loader = loader_of(split, 8, train=False, **options)
    for epoch in (0, 1):
        ((images, labels),) = epoch_of(loader, epoch)
        assert labels.tolist() == [n for n in range(8) if n != bad]
        assert len(images) == 7
    assert [record.getMessage().split(": ")[1] for record in caplog.records] == [path]  # once

    loader = loader_of(split, 8, **options)
    (order,) = list(loader.sampler)
    ((images, labels),) = epoch_of(loader)
    at = order.tolist().index(bad)
    following = order.tolist()[(at + 1) % 8]
    assert labels.tolist() == [following if n == bad else n for n in order.tolist()]
    assert torch.equal(images[at], images[(at + 1) % 8])


@every_loader
@pytest.mark.parametrize("train", [True, False])
def test_nothing_but_bad_files(damaged, loader_of, crew, train):
    split, path = damaged("text")
    bad = next(n for n in range(8) if split.path(n) == path)
    alone = Split(split.labels[[bad]], paths=split.paths[[bad]])
    with pytest.raises(UserError, match=f"no file of a whole batch can be read, {path} for one"):
        epoch_of(loader_of(alone, 1, on_bad_file="skip", train=train, **crew))
