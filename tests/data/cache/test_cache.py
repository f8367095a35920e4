"""The cache: its contents, its messages, and its lifetime."""

import errno
import logging
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import distributed
from torchvision.transforms.v2 import functional as tv

from cnnzoo.data.cache import available_memory, cache, fill
from cnnzoo.data.cache.cache import Cache, fill_once_per_machine
from cnnzoo.data.loaders.sampler import EpochSampler
from cnnzoo.data.loaders.torch_loader import TorchLoader
from cnnzoo.data.transforms.augment import Augment
from cnnzoo.data.transforms.decode import OTHER_FORMAT, PLAIN_JPEG, UNVERIFIED, decode_bytes, decode_file
from cnnzoo.errors import UserError
from tests.helpers.images import make_pixels, make_split, save_image
from tests.helpers.ranks import run_ranks


@pytest.fixture
def split(tmp_path):
    """Twelve JPEGs and PNGs of several sizes, one of them rotated by EXIF."""
    paths = [save_image(tmp_path / f"{n}.{'jpg' if n % 2 else 'png'}", 40 + 7 * n, 60) for n in range(12)]
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(make_pixels("rotated", 50, 90)).save(paths[3], exif=exif)
    return make_split(paths)


def with_cache(split, *, channels=3, on_bad_file="error", verify_jpegs=False, **options):
    fill_options = {"channels": channels, "on_bad_file": on_bad_file, "verify_jpegs": verify_jpegs}
    stores = Cache(**options).fill({"train": split}, **fill_options)
    return replace(split, store=stores.get("train"))


def load_batches(split, *, crop="random_resized", channels=3, train=True, **options):
    loader = TorchLoader(
        split,
        EpochSampler(len(split), 5, seed=0, train=train),
        augment=Augment(crop=crop, flip=0.5),
        train=train,
        image_size=32,
        channels=channels,
        seed=0,
        **options,
    )
    try:
        return [images.clone() for images, _ in loader]
    finally:
        loader.close()


def test_encoded_cache_has_the_files_bytes(split):
    store = with_cache(split, mode="encoded").store
    assert store.num_cached == 12
    for n in range(12):
        data, size = store.get(n)
        path = split.path(n)
        with open(path, "rb") as file:
            assert bytes(data) == file.read()
        assert size == decode_file(path, 3).shape[:2]  # upright


@pytest.mark.parametrize("channels", [1, 3])
def test_decoded_cache_has_the_pixels(split, channels):
    store = with_cache(split, mode="decoded", channels=channels).store
    for n in range(12):
        pixels, size = store.get(n)
        assert np.array_equal(pixels, decode_file(split.path(n), channels))
        assert size == pixels.shape[:2]
        assert not pixels.flags.writeable


@pytest.mark.parametrize("train", [True, False])
def test_batches_are_the_same_in_all_modes(split, train):
    expected = load_batches(split, workers=0, train=train)
    for mode in ("none", "encoded", "decoded", "auto"):
        cached = with_cache(split, mode=mode)
        assert (cached.store is None) == (mode == "none")
        for options in ({"workers": 0}, {"workers": 2}, {"workers": 2, "kind": "processes"}):
            batches = load_batches(cached, train=train, **options)
            assert all(map(torch.equal, batches, expected))
            assert len(batches) == len(expected)


def test_cached_files_are_not_read_again(split):
    cached = {mode: with_cache(split, mode=mode) for mode in ("encoded", "decoded")}
    expected = load_batches(split, workers=0)
    for n in range(12):
        os.unlink(split.path(n))
    for cached_split in cached.values():
        assert all(map(torch.equal, load_batches(cached_split, workers=0), expected))


def test_images_beyond_the_budget_are_read_from_files(split, monkeypatch, caplog):
    total_bytes = sum(os.path.getsize(split.path(n)) for n in range(12))
    monkeypatch.setattr(available_memory, "available_bytes", lambda: total_bytes)
    with caplog.at_level(logging.INFO):
        partial = with_cache(split, mode="encoded", budget=0.5)
    assert 0 < partial.store.num_cached < 12
    assert f"{12 - partial.store.num_cached} images" in caplog.text
    assert "did not fit in data.cache.budget" in caplog.text
    assert all(map(torch.equal, load_batches(partial, workers=2), load_batches(split, workers=0)))


def test_filling_stops_when_memory_runs_out(split, monkeypatch, caplog):
    available = iter([10**9, 10**9, *[10**6] * 99])  # for the budget, for the reserve, then at each check
    monkeypatch.setattr(available_memory, "available_bytes", lambda: next(available))
    monkeypatch.setattr(fill, "MEMORY_CHECK_BYTES", 1)
    partial = with_cache(split, mode="encoded")
    assert partial.store.num_cached < 12
    assert "the machine is running out of memory" in caplog.text
    assert all(map(torch.equal, load_batches(partial, workers=0), load_batches(split, workers=0)))


def test_auto_decodes_if_the_pixels_fit(split, monkeypatch):
    decoded_bytes = sum(decode_file(split.path(n), 3).nbytes for n in range(12))
    for factor, channels in ((1.3, 3), (0.8, None)):
        monkeypatch.setattr(available_memory, "available_bytes", lambda factor=factor: int(decoded_bytes * factor))
        assert with_cache(split, mode="auto", budget=1.0).store.channels == channels
        resolved = Cache(mode="auto", budget=1.0).resolve({"train": split}, 3)
        assert resolved == Cache(mode="decoded" if channels else "encoded", budget=1.0)


@pytest.mark.parametrize("mode", ["encoded", "decoded"])
def test_resize_scales_the_shorter_side_down(split, mode):
    store = with_cache(split, mode=mode, resize=48).store
    for n in range(12):
        data, size = store.get(n)
        expected = decode_file(split.path(n), 3)
        if min(expected.shape[:2]) > 48:
            image = torch.from_numpy(expected).permute(2, 0, 1)
            expected = tv.resize(image, [48], antialias=True).permute(1, 2, 0).numpy()
        assert size == expected.shape[:2]
        pixels = data if mode == "decoded" else decode_bytes(data, 3)
        assert np.abs(pixels.astype(int) - expected).mean() <= (0 if mode == "decoded" else 9)


def test_all_bad_files_are_reported_before_training(split, caplog):
    with open(split.path(1), "r+b") as file:
        file.truncate(300)
    open(split.path(5), "wb").close()
    with open(split.path(7), "w") as file:
        file.write("text")
    os.unlink(split.path(9))
    with pytest.raises(UserError) as caught:
        with_cache(split, mode="encoded")
    message = str(caught.value)
    assert message.startswith("4 files cannot be read (")
    assert message.endswith("); repair or remove them, or type data.on_bad_file=skip")
    for n, reason in (
        (1, "Could not determine subsampling"),
        (5, "an empty file"),
        (7, "not an image"),
        (9, "No such file"),
    ):
        assert split.path(n) in message
        assert reason in message
        assert any(split.path(n) in record.getMessage() for record in caplog.records)
    assert "\n" not in message

    options = {"workers": 0, "on_bad_file": "skip", "train": False}
    for mode in ("encoded", "decoded"):
        cached = with_cache(split, mode=mode, on_bad_file="skip")
        assert cached.store.num_cached == 8
        assert all(map(torch.equal, load_batches(cached, **options), load_batches(split, **options)))


def test_decompression_bomb_is_reported(split, monkeypatch):
    monkeypatch.setattr("cnnzoo.data.transforms.decode.MAX_PIXELS", 5000)
    with pytest.raises(UserError, match="more than the limit of 5,000"):
        with_cache(split, mode="encoded")


def test_persisted_cache_is_mapped_or_filled_again(split, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    options = {"mode": "decoded", "persist": str(tmp_path / "cache dir")}
    expected = load_batches(split, workers=0)
    assert all(map(torch.equal, load_batches(with_cache(split, **options), workers=0), expected))
    (file,) = (tmp_path / "cache dir").glob("cnnzoo-cache-*[!n]")
    stat = file.stat()
    again = with_cache(split, **options)
    assert "filled by an earlier run" in caplog.text
    assert (file.stat().st_mtime_ns, file.stat().st_ino) == (stat.st_mtime_ns, stat.st_ino)
    assert all(map(torch.equal, load_batches(again, workers=2, kind="processes"), expected))
    assert sorted(path.suffix for path in file.parent.iterdir()) == ["", ".json"]  # no unfinished files

    os.truncate(file, file.stat().st_size - 1)
    caplog.clear()
    assert all(map(torch.equal, load_batches(with_cache(split, **options), workers=0), expected))
    assert "truncated" in caplog.text
    assert file.stat().st_size == stat.st_size

    Image.fromarray(make_pixels("new", 40, 60)).save(split.path(0))
    assert np.array_equal(with_cache(split, **options).store.get(0)[0], make_pixels("new", 40, 60))


def test_cache_records_what_is_known_about_files(split, tmp_path):
    """Which files are verified JPEGs, also in a persisted cache, which an older format does not have."""
    jpegs_and_pngs = [PLAIN_JPEG if n % 2 else OTHER_FORMAT for n in range(12)]
    for verify_jpegs, resize, expected in (
        (False, None, [UNVERIFIED] * 12),
        (True, None, jpegs_and_pngs),
        (False, 32, [PLAIN_JPEG] * 12),  # made by the cache
    ):
        store = with_cache(split, mode="encoded", verify_jpegs=verify_jpegs, resize=resize).store
        assert store.index["kind"].tolist() == expected
    for _ in range(2):
        store = with_cache(split, mode="encoded", verify_jpegs=True, persist=str(tmp_path / "cache")).store
        assert store.index["kind"].tolist() == jpegs_and_pngs


def test_persisted_cache_of_another_format_is_not_read(split, tmp_path, monkeypatch):
    options = {"mode": "encoded", "persist": str(tmp_path / "cache")}
    first = with_cache(split, **options).store
    monkeypatch.setattr(cache, "FORMAT_VERSION", cache.FORMAT_VERSION + 1)
    second = with_cache(split, **options).store
    assert first.location[0] != second.location[0]
    assert np.array_equal(first.index, second.index)


def test_verifying_jpegs_finds_damage_in_the_middle(split):
    with open(split.path(1), "r+b") as file:
        file.seek(700)
        file.write(b"\xff\xd9" * 20)
    with_cache(split, mode="encoded")
    with pytest.raises(UserError, match=rf"^1 file cannot be read \({split.path(1)}: "):
        with_cache(split, mode="encoded", verify_jpegs=True)


def test_interrupted_filling_leaves_no_files(split, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(fill.CacheFiller, "_load_image", interrupt)
    with pytest.raises(KeyboardInterrupt):
        with_cache(split, mode="decoded", persist=str(tmp_path / "cache"))
    assert not list((tmp_path / "cache").iterdir())


def test_persist_that_is_a_file_is_an_error(split, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"data\.cache\.persist=.*/file: File exists"):
        with_cache(split, mode="encoded", persist=str(tmp_path / "file"))


@pytest.mark.parametrize("mode", ["encoded", "decoded"])
def test_full_disk_is_not_reported_as_a_bad_file(split, tmp_path, monkeypatch, mode):
    def disk_full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", disk_full)
    with pytest.raises(UserError, match=r"data\.cache\.persist=.*cache: No space left on device"):
        with_cache(split, mode=mode, persist=str(tmp_path / "cache"))
    assert not list((tmp_path / "cache").iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "ram"}, "data.cache.mode=ram: expected none, encoded, decoded or auto"),
        ({"budget": 0}, "data.cache.budget=0: expected a number > 0 and <= 1 (a fraction of the available memory)"),
        ({"budget": 1.5}, "data.cache.budget=1.5: expected a number > 0 and <= 1 (a fraction of the available memory)"),
        ({"resize": 0}, "data.cache.resize=0: expected a whole number >= 1 (the shorter side in pixels), or null"),
        ({"resize": 1.5}, "data.cache.resize=1.5: expected a whole number >= 1 (the shorter side in pixels)"),
        ({"mode": "none", "resize": 64}, "data.cache.resize=64: has no effect with data.cache.mode=none; type another"),
        (
            {"persist": True},
            "data.cache.persist=True: expected the path of a directory, or null",
        ),
        (
            {"mode": "none", "persist": "x"},
            "data.cache.persist=x: has no effect with data.cache.mode=none; type another",
        ),
    ],
)
def test_invalid_option_is_an_error(options, message):
    with pytest.raises(UserError) as caught:
        Cache(**options)
    assert str(caught.value).startswith(message)


def test_pickled_store_contains_no_images(split):
    store = with_cache(split, mode="encoded").store
    pickled = pickle.dumps(store)
    assert len(pickled) < 300
    code = "import pickle, sys; s = pickle.load(sys.stdin.buffer); print(s.num_cached, len(s.get(2)[0]))"
    output = subprocess.run([sys.executable, "-c", code], input=pickled, capture_output=True, check=True).stdout
    assert [int(number) for number in output.split()] == [12, os.path.getsize(split.path(2))]


def test_memory_is_freed_with_the_last_store(split):
    """The process has as many mappings of a memfd afterwards as before."""

    def num_mappings():
        with open("/proc/self/maps") as file:
            return sum("cnnzoo-cache" in line for line in file)

    if not hasattr(os, "memfd_create"):
        pytest.skip("memfd is not available")
    before = num_mappings()
    cached = with_cache(split, mode="encoded")
    assert num_mappings() > before
    del cached
    assert num_mappings() == before


def fill_cache(rank, paths):
    """The location of the cache and the sum of an image's pixels, or the error."""
    ranks = SimpleNamespace(world_size=2, local_rank=rank, node_rank=0)
    split = make_split(paths)
    try:
        stores = fill_once_per_machine(Cache(), {"train": split}, channels=3, on_bad_file="error", ranks=ranks)
    except UserError as error:
        return str(error)
    result = stores["train"].location[0], int(stores["train"].get(4)[0].sum())
    distributed.barrier()  # the memory belongs to the first rank, and ends with its stores
    return result


@pytest.mark.parametrize("has_bad_file", [False, True])
def test_ranks_of_a_machine_share_the_cache(tmp_path, has_bad_file):
    """Two processes: the first fills the cache, the second maps the same memory. An error reaches both."""
    paths = [str(save_image(tmp_path / f"{n}.png")) for n in range(6)]
    if has_bad_file:
        open(paths[2], "w").close()
    first, second = run_ranks(fill_cache, tmp_path, paths)
    assert first == second
    if has_bad_file:
        assert "2.png: an empty file" in first
    else:
        assert first[1] == decode_file(paths[4], 3).sum()


def test_without_a_trainer_the_cache_is_filled(split):
    assert fill_once_per_machine(Cache(mode="none"), {"train": split}, channels=3, on_bad_file="error") == {}
    assert fill_once_per_machine(Cache(), {"train": split}, channels=3, on_bad_file="error")["train"].num_cached == 12
