"""The cache: what it holds, what it says, and what becomes of it."""

import errno
import json
import logging
import os
import pickle
import subprocess
import sys
import textwrap
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as tv

from cnnzoo.data.cache import available_memory, fill
from cnnzoo.data.cache.cache import Cache, fill_once_per_machine
from cnnzoo.data.cache.shared_memory import SharedBuffer
from cnnzoo.data.loaders.sampler import EpochSampler
from cnnzoo.data.loaders.torch_loader import TorchLoader
from cnnzoo.data.split import Split
from cnnzoo.data.transforms.augment import Augment
from cnnzoo.data.transforms.decode import decode_bytes, decode_file
from cnnzoo.errors import UserError
from tests.helpers.images import pixels_of, save


def split_of(paths):
    return Split(np.arange(len(paths)), paths=np.array([os.fsencode(path) for path in paths]))


@pytest.fixture
def split(tmp_path):
    """Twelve JPEGs and PNGs of several sizes, one of them turned by EXIF."""
    paths = [save(tmp_path / f"{n}.{'jpg' if n % 2 else 'png'}", 40 + 7 * n, 60) for n in range(12)]
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels_of("turned", 50, 90)).save(paths[3], exif=exif)
    return split_of(paths)


def filled(split, *, channels=3, on_bad_file="error", **options):
    stores = Cache(**options).fill({"train": split}, channels=channels, on_bad_file=on_bad_file)
    return replace(split, store=stores.get("train"))


def batches_of(split, *, crop="random_resized", channels=3, train=True, **options):
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


def test_encoded_are_the_files_bytes(split):
    store = filled(split, mode="encoded").store
    assert store.held == 12
    for n in range(12):
        data, size = store.get(n)
        path = split.path(n)
        with open(path, "rb") as file:
            assert bytes(data) == file.read()
        assert size == decode_file(path, 3).shape[:2]  # upright


@pytest.mark.parametrize("channels", [1, 3])
def test_decoded_are_the_pixels(split, channels):
    store = filled(split, mode="decoded", channels=channels).store
    for n in range(12):
        pixels, size = store.get(n)
        assert np.array_equal(pixels, decode_file(split.path(n), channels))
        assert size == pixels.shape[:2]
        assert not pixels.flags.writeable


@pytest.mark.parametrize("train", [True, False])
def test_no_mode_changes_a_byte(split, train):
    expected = batches_of(split, workers=0, train=train)
    for mode in ("none", "encoded", "decoded", "auto"):
        cached = filled(split, mode=mode)
        assert (cached.store is None) == (mode == "none")
        for crew in ({"workers": 0}, {"workers": 2}, {"workers": 2, "kind": "processes"}):
            made = batches_of(cached, train=train, **crew)
            assert all(map(torch.equal, made, expected))
            assert len(made) == len(expected)


def test_files_are_not_read_again(split):
    cached = {mode: filled(split, mode=mode) for mode in ("encoded", "decoded")}
    expected = batches_of(split, workers=0)
    for n in range(12):
        os.unlink(split.path(n))
    for kept in cached.values():
        assert all(map(torch.equal, batches_of(kept, workers=0), expected))


def test_what_does_not_fit_is_read_from_its_file(split, monkeypatch, caplog):
    total = sum(os.path.getsize(split.path(n)) for n in range(12))
    monkeypatch.setattr(available_memory, "available_bytes", lambda: total)
    with caplog.at_level(logging.INFO):
        part = filled(split, mode="encoded", budget=0.5)
    assert 0 < part.store.held < 12
    assert f"{12 - part.store.held} images" in caplog.text
    assert "did not fit in data.cache.budget" in caplog.text
    assert all(map(torch.equal, batches_of(part, workers=2), batches_of(split, workers=0)))


def test_filling_ends_where_memory_runs_out(split, monkeypatch, caplog):
    left = iter([10**9, 10**9, *[10**6] * 99])  # the budget, the reserve, and what is left later
    monkeypatch.setattr(available_memory, "available_bytes", lambda: next(left))
    monkeypatch.setattr(fill, "MEMORY_CHECK_BYTES", 1)
    part = filled(split, mode="encoded")
    assert part.store.held < 12
    assert "the machine's memory runs out" in caplog.text
    assert all(map(torch.equal, batches_of(part, workers=0), batches_of(split, workers=0)))


def test_auto_decodes_what_fits(split, monkeypatch):
    pixels = sum(decode_file(split.path(n), 3).nbytes for n in range(12))
    for share, channels in ((1.3, 3), (0.8, None)):
        monkeypatch.setattr(available_memory, "available_bytes", lambda share=share: int(pixels * share))
        assert filled(split, mode="auto", budget=1.0).store.channels == channels


@pytest.mark.parametrize("mode", ["encoded", "decoded"])
def test_resize_brings_the_shorter_side_down(split, mode):
    store = filled(split, mode=mode, resize=48).store
    for n in range(12):
        data, size = store.get(n)
        whole = decode_file(split.path(n), 3)
        height, width = whole.shape[:2]
        small = min(height, width) <= 48
        expected = whole
        if not small:
            image = torch.from_numpy(whole).permute(2, 0, 1)
            expected = tv.resize(image, [48], antialias=True).permute(1, 2, 0).numpy()
        assert size == expected.shape[:2]
        pixels = data if mode == "decoded" else decode_bytes(data, 3)
        assert np.abs(pixels.astype(int) - expected).mean() <= (0 if mode == "decoded" else 9)


def test_bad_files_are_all_named_before_training(split, caplog):
    with open(split.path(1), "r+b") as file:
        file.truncate(300)
    open(split.path(5), "wb").close()
    with open(split.path(7), "w") as file:
        file.write("text")
    os.unlink(split.path(9))
    with pytest.raises(UserError) as caught:
        filled(split, mode="encoded")
    said = str(caught.value)
    assert said.startswith("4 files cannot be read (")
    assert said.endswith("): mend or remove them, or type data.on_bad_file=skip")
    for n, reason in (
        (1, "Could not determine subsampling"),
        (5, "an empty file"),
        (7, "not an image"),
        (9, "No such file"),
    ):
        assert split.path(n) in said
        assert reason in said
        assert any(split.path(n) in record.getMessage() for record in caplog.records)
    assert "\n" not in said

    options = {"workers": 0, "on_bad_file": "skip", "train": False}
    for mode in ("encoded", "decoded"):
        skipping = filled(split, mode=mode, on_bad_file="skip")
        assert skipping.store.held == 8
        assert all(map(torch.equal, batches_of(skipping, **options), batches_of(split, **options)))


def test_a_bomb_is_named(split, monkeypatch):
    monkeypatch.setattr("cnnzoo.data.transforms.decode.MAX_PIXELS", 5000)
    with pytest.raises(UserError, match="more than the 5,000 that are decoded"):
        filled(split, mode="encoded")


def test_a_persisted_cache_is_mapped_again(split, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    options = {"mode": "decoded", "persist": str(tmp_path / "kept here")}
    expected = batches_of(split, workers=0)
    assert all(map(torch.equal, batches_of(filled(split, **options), workers=0), expected))
    (kept,) = (tmp_path / "kept here").glob("cnnzoo-cache-*[!n]")
    written = kept.stat()
    again = filled(split, **options)
    assert "mapped from an earlier run" in caplog.text
    assert (kept.stat().st_mtime_ns, kept.stat().st_ino) == (written.st_mtime_ns, written.st_ino)
    assert all(map(torch.equal, batches_of(again, workers=2, kind="processes"), expected))
    assert sorted(path.suffix for path in kept.parent.iterdir()) == ["", ".json"]  # nothing half-written

    os.truncate(kept, kept.stat().st_size - 1)
    caplog.clear()
    assert all(map(torch.equal, batches_of(filled(split, **options), workers=0), expected))
    assert "cut short" in caplog.text
    assert kept.stat().st_size == written.st_size

    Image.fromarray(pixels_of("new", 40, 60)).save(split.path(0))
    assert np.array_equal(filled(split, **options).store.get(0)[0], pixels_of("new", 40, 60))


def test_an_interrupted_filling_leaves_nothing(split, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(fill.CacheFiller, "_kept", interrupted)
    with pytest.raises(KeyboardInterrupt):
        filled(split, mode="decoded", persist=str(tmp_path / "kept"))
    assert not list((tmp_path / "kept").iterdir())


def test_a_directory_that_cannot_be(split, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"data\.cache\.persist=.*/file: File exists"):
        filled(split, mode="encoded", persist=str(tmp_path / "file"))


@pytest.mark.parametrize("mode", ["encoded", "decoded"])
def test_a_full_disk_is_no_bad_file(split, tmp_path, monkeypatch, mode):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(UserError, match=r"data\.cache\.persist=.*kept: No space left on device"):
        filled(split, mode=mode, persist=str(tmp_path / "kept"))
    assert not list((tmp_path / "kept").iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "ram"}, "data.cache.mode=ram: it can be none, encoded, decoded, auto"),
        ({"budget": 0}, "data.cache.budget=0: a share of the available memory"),
        ({"budget": 1.5}, "data.cache.budget=1.5: a share of the available memory"),
        ({"resize": 0}, "data.cache.resize=0: at least 1 pixel"),
        ({"resize": 1.5}, "data.cache.resize=1.5: the shorter side in pixels"),
        ({"mode": "none", "resize": 64}, "data.cache.resize=64 needs a cache"),
        ({"mode": "none", "persist": "x"}, "data.cache.persist=x needs a cache"),
    ],
)
def test_values_that_cannot_be(options, message):
    with pytest.raises(UserError) as caught:
        Cache(**options)
    assert str(caught.value).startswith(message)


def test_a_store_travels_as_its_place_alone(split):
    store = filled(split, mode="encoded").store
    sent = pickle.dumps(store)
    assert len(sent) < 300
    code = "import pickle, sys; s = pickle.load(sys.stdin.buffer); print(s.held, len(s.get(2)[0]))"
    told = subprocess.run([sys.executable, "-c", code], input=sent, capture_output=True, check=True).stdout.split()
    assert [int(word) for word in told] == [12, os.path.getsize(split.path(2))]


def test_memory_goes_with_the_last_store(split):
    """File numbers in /proc/self/fd, and mappings: as many after as before."""

    def memfds():
        with open("/proc/self/maps") as file:
            return sum("cnnzoo-cache" in line for line in file)

    if not hasattr(os, "memfd_create"):
        pytest.skip("no memfd here")
    before = memfds()
    cached = filled(split, mode="encoded")
    assert memfds() > before
    del cached
    assert memfds() == before


def test_pieces_do_not_overlap():
    block = SharedBuffer(100)
    assert [block.take(60), block.take(60), block.take(40), block.take(1)] == [0, None, 60, None]


@pytest.mark.parametrize("failing", [False, True])
def test_ranks_of_a_machine_share_one(tmp_path, failing):
    """Two processes: the first fills, the second maps what it filled; an error reaches both."""
    paths = [str(save(tmp_path / f"{n}.png")) for n in range(6)]
    if failing:
        open(paths[2], "w").close()
    code = textwrap.dedent(
        """
        import json, os, sys
        from types import SimpleNamespace
        import numpy as np
        from torch import distributed
        from cnnzoo.data.cache.cache import Cache, fill_once_per_machine
        from cnnzoo.data.split import Split
        from cnnzoo.errors import UserError
        rank, place, *paths = sys.argv[1:]
        distributed.init_process_group("gloo", init_method=f"file://{place}", rank=int(rank), world_size=2)
        trainer = SimpleNamespace(world_size=2, local_rank=int(rank), node_rank=0)
        split = Split(np.arange(len(paths)), paths=np.array([path.encode() for path in paths]))
        try:
            stores = fill_once_per_machine(Cache(), {"train": split}, channels=3, on_bad_file="error", trainer=trainer)
        except UserError as error:
            print(json.dumps({"error": str(error)}))
        else:
            store = stores["train"]
            print(json.dumps({"path": store.place[0], "sum": int(store.get(4)[0].sum())}))
        distributed.barrier()
        distributed.destroy_process_group()
        """
    )
    command = [sys.executable, "-c", code]
    ranks = [
        subprocess.Popen([*command, str(rank), str(tmp_path / "meet"), *paths], stdout=subprocess.PIPE, text=True)
        for rank in (0, 1)
    ]
    first, second = (json.loads(rank.communicate(timeout=120)[0].splitlines()[-1]) for rank in ranks)
    assert first == second
    if failing:
        assert "2.png: an empty file" in first["error"]
    else:
        assert first["sum"] == decode_file(paths[4], 3).sum()


def test_alone_it_is_filled_here(split):
    assert fill_once_per_machine(Cache(mode="none"), {"train": split}, channels=3, on_bad_file="error") == {}
    assert fill_once_per_machine(Cache(), {"train": split}, channels=3, on_bad_file="error")["train"].held == 12
