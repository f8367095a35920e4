"""Files that cannot be read: every loader names or skips them."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cnnzoo.data.datasets.folder import ImageFolder
from cnnzoo.data.split import Split
from cnnzoo.errors import UserError
from tests.helpers.images import save_image
from tests.helpers.loaders import load_epoch, parametrize_file_loaders, parametrize_file_pools


@pytest.fixture
def damaged_split(tmp_path):
    """A function that returns a split of eight JPEGs, one of them damaged, and the path of that one."""

    def make(damage):
        for number in range(8):
            path = save_image(tmp_path / "train" / "ab"[number % 2] / f"{number}.jpg", 60, 60)
            save_image(tmp_path / "val" / "a" / f"{number}.jpg")
        data = path.read_bytes()
        split = ImageFolder(str(tmp_path)).split("train")
        middle = len(data) // 2
        if damage == "missing":
            path.unlink()
        else:
            damaged_data = {"truncated": data[:middle], "empty": b"", "text": b"text"}
            damaged_data["zeros"] = data[:middle] + bytes(200) + data[middle + 200 :]
            path.write_bytes(damaged_data[damage])
        return split, str(path)

    return make


@parametrize_file_pools
@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "missing", "zeros"])
def test_bad_file_error_names_the_file(damaged_split, make_loader, loader_options, damage):
    split, path = damaged_split(damage)
    message = rf"^{path}: cannot be read: .+; repair or remove the file, or type data.on_bad_file=skip$"
    with pytest.raises(UserError, match=message) as error:
        load_epoch(make_loader(split, 8, **loader_options))
    assert "\n" not in str(error.value)


@parametrize_file_pools
def test_bad_file_skip_logs_once_and_replaces(damaged_split, make_loader, loader_options, caplog):
    split, path = damaged_split("zeros")
    bad_index = next(n for n in range(8) if split.path(n) == path)
    split = replace(split, labels=np.arange(8))
    options = {**loader_options, "on_bad_file": "skip", "image_size": 8}

    loader = make_loader(split, 8, train=False, **options)
    for epoch in (0, 1):
        ((images, labels),) = load_epoch(loader, epoch)
        assert labels.tolist() == [n for n in range(8) if n != bad_index]
        assert len(images) == 7
    assert [record.getMessage().split(": ")[1] for record in caplog.records] == [path]  # once

    loader = make_loader(split, 8, **options)
    (indices,) = list(loader.sampler)
    ((images, labels),) = load_epoch(loader)
    position = indices.tolist().index(bad_index)
    replacement = indices.tolist()[(position + 1) % 8]
    assert labels.tolist() == [replacement if n == bad_index else n for n in indices.tolist()]
    assert torch.equal(images[position], images[(position + 1) % 8])


@parametrize_file_loaders
@pytest.mark.parametrize("train", [True, False])
def test_bad_file_skip_raises_if_whole_batch_is_bad(damaged_split, make_loader, loader_options, train):
    split, path = damaged_split("text")
    bad_index = next(n for n in range(8) if split.path(n) == path)
    bad_split = Split(split.labels[[bad_index]], paths=split.paths[[bad_index]])
    with pytest.raises(UserError, match=f"^{path}: cannot be read: .+; no other file of its batch can be read either"):
        load_epoch(make_loader(bad_split, 1, on_bad_file="skip", train=train, **loader_options))


@parametrize_file_loaders
def test_iter_once_leaves_bad_files_to_the_caller(damaged_split, make_loader, loader_options):
    split, path = damaged_split("truncated")
    bad_index = next(n for n in range(8) if split.path(n) == path)
    split = replace(split, labels=np.arange(8))
    loader = make_loader(split, 1, on_bad_file="error", train=False, **loader_options)
    batches = [(labels.tolist(), [file.path for file in bad_files]) for _, labels, bad_files in loader.iter_once()]
    assert batches == [([], [path]) if n == bad_index else ([n], []) for n in range(8)]
