"""Labels of multi-label sets: every loader gives the multi-hot rows of the images that it gives."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cnnzoo.data.split import Split
from cnnzoo.errors import UserError
from tests.helpers.images import make_pixels
from tests.helpers.loaders import equal_batches, load_epoch, parametrize_file_pools, parametrize_loaders

CLASSES = 11  # more bytes than the int64 of a single label


def multi_hot(count):
    """Rows that tell their images apart: the bits of the image's number, and three classes that all have."""
    bits = (np.arange(count)[:, None] >> np.arange(CLASSES - 3)) & 1
    return np.concatenate([bits, np.ones((count, 3))], axis=1).astype(np.uint8)


def numbers(labels):
    return (labels[:, : CLASSES - 3].long() * 2 ** torch.arange(CLASSES - 3)).sum(1)


@parametrize_loaders
def test_loader_multi_hot_labels_match_pixels(make_loader, loader_options):
    pixels = np.arange(30, dtype=np.uint8)[:, None, None, None].repeat(64, 1).reshape(30, 8, 8, 1)
    split = Split(multi_hot(30), pixels=pixels)
    batches = load_epoch(make_loader(split, crop="center", image_size=8, channels=1, batch_size=7, **loader_options))
    for images, labels in batches:
        assert labels.dtype == torch.uint8
        assert labels.shape == (7, CLASSES)
        assert torch.equal(images[:, 0, 0, 0].long(), numbers(labels))
        assert labels[:, CLASSES - 3 :].all()


@parametrize_file_pools
def test_loader_multi_hot_labels_of_files(make_loader, files, loader_options):
    split = replace(files, labels=multi_hot(len(files)))
    batches = load_epoch(make_loader(split, 7, **loader_options))
    numbered = replace(files, labels=np.arange(len(files)))
    single = load_epoch(make_loader(numbered, 7, **loader_options))
    assert equal_batches([(images, numbers(labels)) for images, labels in batches], single)


def test_process_pool_multi_hot_labels_of_a_bad_file(make_loader, files, tmp_path):
    paths = files.paths.astype("S300")
    (tmp_path / "bad.png").write_text("no image")
    paths[3] = str(tmp_path / "bad.png").encode()
    split = replace(files, labels=multi_hot(len(files)), paths=paths)
    loader = make_loader(split, len(files), train=False, on_bad_file="skip", workers=1, kind="processes")
    ((images, labels),) = load_epoch(loader)
    assert len(images) == len(files) - 1
    assert numbers(labels).tolist() == [number for number in range(len(files)) if number != 3]


def test_sampler_balance_of_multi_hot_labels_is_an_error(make_loader):
    split = Split(multi_hot(20), pixels=np.stack([make_pixels(str(n), 8, 8) for n in range(20)]))
    with pytest.raises(UserError, match="an image of a multi-label set"):
        make_loader(split, 4, balance=True)
