"""The DALI loader: its images equal the torch loader's. Tests that both loaders pass are in test_torch_loader.py."""

import json
import re
import subprocess
import sys
import textwrap
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from cnnzoo.data.cache.cache import Cache
from cnnzoo.data.datasets.builtin import Synthetic
from cnnzoo.data.loaders import dali_loader, dali_source
from cnnzoo.data.transforms.augment import Augment
from cnnzoo.errors import UserError
from cnnzoo.runtime import cpu
from tests.helpers.images import make_split, save_image
from tests.helpers.loaders import DALI, NO_WORKERS, equal_batches, load_epoch, needs_dali, similar_batches

pytestmark = needs_dali

CROPS = ["center", "padded", "random_resized"]
ORIENTATION = 0x0112


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("crop", CROPS)
@pytest.mark.parametrize("mode", ["none", "encoded", "decoded"])
def test_dali_files_and_caches_equal_torch(make_loader, jpegs, mode, crop, channels):
    stores = Cache(mode=mode).fill({"train": jpegs}, channels=channels, on_bad_file="error")
    split = replace(jpegs, store=stores.get("train"))
    for train in (True, False):
        # Erased areas are filled with `mean`, so the decoders' small differences do not affect them.
        mean = (0.3, 0.4, 0.5)[-channels:]
        augment = Augment(crop=crop, flip=0.5, random_erase=0.5, erase_ratio=(0.5, 2.0), mean=mean)
        options = {"train": train, "augment": augment, "channels": channels, "image_size": 40}
        for epoch in (0, 1):
            expected = load_epoch(make_loader(split, 4, **options, **NO_WORKERS), epoch)
            assert similar_batches(load_epoch(make_loader(split, 4, **options, **DALI), epoch), expected)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("crop", CROPS)
@pytest.mark.parametrize("image_size", [16, 24])
def test_dali_pixels_in_memory_equal_torch(make_loader, crop, channels, image_size):
    split = Synthetic(images=60, image_size=16, channels=3).split("train")
    options = {"crop": crop, "channels": channels, "image_size": image_size}
    expected = load_epoch(make_loader(split, 8, **options, **NO_WORKERS))
    assert similar_batches(load_epoch(make_loader(split, 8, **options, **DALI)), expected)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("train", [True, False])
def test_dali_every_file_format_equals_torch(make_loader, file_formats, channels, train):
    options = {"train": train, "channels": channels, "image_size": 32}
    expected = load_epoch(make_loader(file_formats, 13, **options, **NO_WORKERS))
    assert similar_batches(load_epoch(make_loader(file_formats, 13, **options, **DALI)), expected)


@pytest.mark.parametrize("crop", ["center", "random_resized"])
def test_dali_applies_exif_orientation(make_loader, tmp_path, crop):
    """A JPEG with one white quarter, in all orientations: white where the torch loader has it."""
    pixels = np.zeros((40, 64, 3), np.uint8)
    pixels[:20, :32] = 255
    paths = []
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        paths.append(tmp_path / f"{orientation}.jpg")
        Image.fromarray(pixels).save(paths[-1], exif=exif, quality=95)
    options = {"crop": crop, "image_size": 32, "train": crop != "center"}
    ((images, labels),) = load_epoch(make_loader(make_split(paths), 8, **options, **DALI))
    ((expected, _),) = load_epoch(make_loader(make_split(paths), 8, **options, **NO_WORKERS))
    assert (images.float() - expected.float()).abs().mean((1, 2, 3)).max() < 1
    if crop == "center":
        corners = images[labels.argsort(), 0][:, [2, 2, -3, -3], [2, -3, 2, -3]] > 127
        assert corners.int().argmax(1).tolist() == [0, 1, 3, 2, 0, 1, 3, 2]


def test_dali_image_does_not_depend_on_its_batch(make_loader, jpegs):
    one_batch = torch.cat([images for images, _ in load_epoch(make_loader(jpegs, 15, train=False, **DALI))])
    small_batches = torch.cat([images for images, _ in load_epoch(make_loader(jpegs, 4, train=False, **DALI))])
    assert torch.equal(one_batch, small_batches)


@pytest.mark.parametrize("prefetch", [1, 2, 5])
def test_dali_prefetch_does_not_change_batches(make_loader, jpegs, prefetch):
    expected = [load_epoch(make_loader(jpegs, **DALI), epoch) for epoch in (0, 1)]
    loader = make_loader(jpegs, prefetch=prefetch, **DALI)
    assert all(equal_batches(load_epoch(loader, epoch), expected[epoch]) for epoch in (0, 1))
    iterator = iter(loader)
    next(iterator)
    assert len(loader._pipeline.in_flight) == min(prefetch, len(loader) - 1)


@pytest.mark.parametrize(("mode", "verified"), [("none", False), ("encoded", False), ("encoded", True)])
def test_dali_verifies_each_file_once(make_loader, jpegs, monkeypatch, mode, verified):
    """The header of a cached file is not checked again, nor is the whole file if filling the cache verified it."""
    options = {"channels": 3, "on_bad_file": "error", "verify_jpegs": verified}
    split = replace(jpegs, store=Cache(mode=mode).fill({"train": jpegs}, **options).get("train"))
    calls = []
    for name in ("check_header", "verify_jpeg"):
        function = getattr(dali_source, name)
        monkeypatch.setattr(dali_source, name, lambda data, n=name, f=function: calls.append(n) or f(data))
    loader = make_loader(split, 5, **DALI)
    for epoch in range(3):
        load_epoch(loader, epoch)
    assert calls.count("check_header") == (15 if mode == "none" else 0)
    assert calls.count("verify_jpeg") == (0 if verified else 15)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"auto_augment": "randaugment"},
            r"augment\.auto_augment=randaugment: loader=dali does not support it; type loader=torch",
        ),
        ({"auto_augment": "trivialaugment"}, r"augment\.auto_augment=trivialaugment: loader=dali does not support"),
        ({"color_jitter": (0.4, 0.4, 0.4, 0.1)}, r"augment\.color_jitter=.*: loader=dali does not support"),
    ],
)
def test_dali_unsupported_augmentation_raises(make_loader, jpegs, options, message):
    with pytest.raises(UserError, match=message):
        make_loader(jpegs, augment=Augment(**options), **DALI)
    load_epoch(make_loader(jpegs, augment=Augment(**options), train=False, **DALI))  # evaluation does not use it


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("workers", 0, r"loader\.workers=0: expected a whole number >= 1 for DALI, or auto"),
        ("workers", True, r"loader\.workers=True"),
        ("workers", "many", r"loader\.workers=many"),
        ("prefetch", 0, r"loader\.prefetch=0: expected a whole number >= 1 \(batches\)"),
        ("prefetch", 1.5, r"loader\.prefetch=1\.5"),
        ("hw_decoder_load", 1.5, r"loader\.hw_decoder_load=1\.5: expected a number >= 0 and <= 1 \(of the JPEGs\)"),
        ("hw_decoder_load", "half", r"loader\.hw_decoder_load=half"),
    ],
)
def test_dali_invalid_option_raises(make_loader, jpegs, option, value, message):
    with pytest.raises(UserError, match=message):
        make_loader(jpegs, **{**DALI, option: value})


@pytest.mark.parametrize(("device", "name"), [(None, "CPU"), ("cpu", "CPU"), ("cuda:0", "GPU")])
def test_dali_describe(make_loader, jpegs, monkeypatch, device, name):
    monkeypatch.setattr(dali_loader, "check_dali", lambda augment, device: None)  # needs a GPU
    device = None if device is None else torch.device(device)
    loader = make_loader(jpegs, loader="dali", workers=3, device=device)
    assert loader.describe() == f"dali, 3 threads, decoding on the {name}"


def test_dali_auto_workers_share_the_cores(make_loader, jpegs, monkeypatch):
    monkeypatch.setattr(cpu, "usable_cores", lambda: 64)
    assert make_loader(jpegs, loader="dali").workers == 64
    assert make_loader(jpegs, loader="dali", local_ranks=8).workers == 8


def test_train_job_uses_dali(job, tmp_path, caplog):
    for name, value in (("dark", 60), ("light", 190)):
        for number in range(40):
            (tmp_path / "tones" / name).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (20, 24), (value + number % 20,) * 3).save(tmp_path / "tones" / name / f"{number}.jpg")
    data_overrides = ("data=folder", f"data.root={tmp_path / 'tones'}", "data.batch_size=8", "data.cache.mode=encoded")
    with caplog.at_level("INFO"):
        assert job("model=lenet", "loader=dali", "loader.workers=1", "trainer.max_epochs=4", *data_overrides) == 1.0
    assert any(re.fullmatch("loader +dali, 1 thread, decoding on the CPU", line) for line in caplog.messages)
    assert yaml.safe_load((tmp_path / "run/hparams.yaml").read_text())["loader"] == "dali"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("loader.workers=0", "loader.workers=0: expected a whole number >= 1 for DALI, or auto"),
        ("augment=trivial", "augment.auto_augment=trivialaugment: loader=dali does not support it; type loader=torch"),
    ],
)
def test_train_job_invalid_dali_options_raise(job, override, message):
    with pytest.raises(UserError, match=f"^{message}$"):
        job("model=lenet", "loader=dali", override)


@pytest.mark.long
def test_dali_two_ranks_share_the_images(tmp_path):
    """Two processes: every image once in an epoch, and the same number of training batches in both."""
    paths = [str(save_image(tmp_path / f"{n}.jpg")) for n in range(13)]
    code = textwrap.dedent(
        """
        import json, sys
        import numpy as np
        import torch
        from torch import distributed
        from cnnzoo.data.transforms.augment import Augment
        from cnnzoo.data.loaders.dali_loader import DaliLoader
        from cnnzoo.data.loaders.sampler import EpochSampler
        from cnnzoo.data.split import Split
        rank, store_path, paths = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
        distributed.init_process_group("gloo", init_method=f"file://{store_path}", rank=rank, world_size=2)
        split = Split(np.arange(len(paths)), paths=np.array([path.encode() for path in paths]))
        for train in (True, False):
            sampler = EpochSampler(len(paths), 2, seed=0, train=train, rank=rank, world_size=2)
            options = {"train": train, "image_size": 8, "channels": 3, "seed": 0, "workers": 1}
            loader = DaliLoader(split, sampler, augment=Augment(), **options)
            for epoch in (0, 1):
                loader.sampler.set_epoch(epoch)
                labels = [labels.tolist() for _, labels in loader]
                labels_by_rank = [None, None]
                distributed.all_gather_object(labels_by_rank, labels)
                if rank == 0:
                    print(json.dumps(labels_by_rank))
        distributed.destroy_process_group()
        """
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(rank), str(tmp_path / "store"), *paths],
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    epochs = [json.loads(line) for line in outputs[0].splitlines()]
    for first, second in epochs[:2]:
        assert len(first) == len(second) == 3
        assert len({label for batch in first + second for label in batch}) == 12
    for first, second in epochs[2:]:
        assert sorted(label for batch in first + second for label in batch) == list(range(13))


def test_dali_process_exits_during_an_iteration(tmp_path):
    path = str(save_image(tmp_path / "a.jpg"))
    code = textwrap.dedent(
        """
        import sys
        import numpy as np
        from cnnzoo.data.transforms.augment import Augment
        from cnnzoo.data.loaders.dali_loader import DaliLoader
        from cnnzoo.data.loaders.sampler import EpochSampler
        from cnnzoo.data.split import Split
        split = Split(np.arange(40), paths=np.array([sys.argv[1].encode()] * 40))
        sampler = EpochSampler(40, 2, seed=0, train=True)
        loader = DaliLoader(split, sampler, augment=Augment(), train=True, image_size=8, channels=3, seed=0, workers=2)
        batches = iter(loader)
        print(len(next(batches)[1]))
        """
    )
    result = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stdout, result.stderr) == (0, "2\n", "")
