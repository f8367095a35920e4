"""The DALI loader: the torch loader's images, whatever they are stored as. What both keep: test_torch_loader.py."""

import json
import os
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
from cnnzoo.data.split import Split
from cnnzoo.data.transforms.augment import Augment
from cnnzoo.errors import UserError
from tests.helpers.images import pixels_of, save
from tests.helpers.loaders import DALI, NO_WORKERS, equal_batches, load_epoch, needs_dali, similar_batches

pytestmark = needs_dali
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

CROPS = ["center", "padded", "random_resized"]
ORIENTATION = 0x0112
COLOUR, GREY = pixels_of("colour", 48, 70), pixels_of("grey", 50, 66, 1)[..., 0]


def split_of(paths):
    return Split(np.arange(len(paths)), paths=np.array([os.fsencode(path) for path in paths]))


@pytest.fixture(scope="module")
def jpegs(tmp_path_factory):
    """Fifteen JPEGs: three sizes, grey and colour, of every subsampling, progressive ones, every EXIF orientation."""
    root = tmp_path_factory.mktemp("jpegs")
    paths = []
    for number in range(15):
        path = root / f"{number}.jpg"
        pixels = pixels_of(path.name, 50 + 11 * (number % 3), 64, 1 if number % 5 == 4 else 3)
        exif = Image.Exif()
        exif[ORIENTATION] = number % 8 + 1
        image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
        image.save(path, exif=exif, subsampling=number % 3, progressive=number % 4 == 1, quality=90)
        paths.append(path)
    return split_of(paths)


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    """What DALI would decode in another way than we, or not at all, and JPEGs between: one of each."""
    root = tmp_path_factory.mktemp("kinds")
    image, grey = Image.fromarray(COLOUR), Image.fromarray(GREY)
    alpha = image.copy()
    alpha.putalpha(Image.fromarray(pixels_of("alpha", 48, 70, 1)[..., 0]))
    files = {
        "colour.jpg": (image, {}),
        "rgb.jpg": (image, {"keep_rgb": True}),
        "grey.jpg": (grey, {}),
        "cmyk.jpg": (image.convert("CMYK"), {}),
        "colour.png": (image, {}),
        "grey.png": (grey, {}),
        "palette.png": (image.quantize(16), {}),
        "alpha.png": (alpha, {}),
        "deep.png": (Image.fromarray(GREY.astype(np.uint16) * 257), {}),
        "grey.tif": (grey, {}),
        "colour.bmp": (image, {}),
        "colour.gif": (image, {}),
        "alpha.webp": (alpha, {"lossless": True}),
    }
    for name, (made, options) in files.items():
        made.save(root / name, **options)
    return split_of([root / name for name in files])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("crop", CROPS)
@pytest.mark.parametrize("mode", ["none", "encoded", "decoded"])
def test_the_torch_loaders_images_from_files_and_both_caches(loader_of, jpegs, mode, crop, channels):
    stores = Cache(mode=mode).fill({"train": jpegs}, channels=channels, on_bad_file="error")
    split = replace(jpegs, store=stores.get("train"))
    for train in (True, False):
        # erased to one value, which two decoders' noise does not blur
        augment = Augment(
            crop=crop, flip=0.5, random_erase=0.5, erase_ratio=(0.5, 2.0), mean=(0.3, 0.4, 0.5)[-channels:]
        )
        options = {"train": train, "augment": augment, "channels": channels, "image_size": 40}
        for epoch in (0, 1):
            expected = load_epoch(loader_of(split, 4, **options, **NO_WORKERS), epoch)
            assert similar_batches(load_epoch(loader_of(split, 4, **options, **DALI), epoch), expected)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("crop", CROPS)
@pytest.mark.parametrize("image_size", [16, 24])
def test_the_torch_loaders_images_of_pixels_in_memory(loader_of, crop, channels, image_size):
    split = Synthetic(images=60, image_size=16, channels=3).split("train")
    options = {"crop": crop, "channels": channels, "image_size": image_size}
    expected = load_epoch(loader_of(split, 8, **options, **NO_WORKERS))
    assert similar_batches(load_epoch(loader_of(split, 8, **options, **DALI)), expected)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("train", [True, False])
def test_the_torch_loaders_images_of_every_kind_of_file(loader_of, kinds, channels, train):
    options = {"train": train, "channels": channels, "image_size": 32, "ranks": (0, 1)}
    expected = load_epoch(loader_of(kinds, 13, **options, **NO_WORKERS))
    assert similar_batches(load_epoch(loader_of(kinds, 13, **options, **DALI)), expected)


@pytest.mark.parametrize("crop", ["center", "random_resized"])
def test_images_are_upright(loader_of, tmp_path, crop):
    """A quarter of a JPEG is white; whichever way it is turned, it is white where the torch loader has it."""
    pixels = np.zeros((40, 64, 3), np.uint8)
    pixels[:20, :32] = 255
    paths = []
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        paths.append(tmp_path / f"{orientation}.jpg")
        Image.fromarray(pixels).save(paths[-1], exif=exif, quality=95)
    options = {"crop": crop, "image_size": 32, "train": crop != "center"}
    ((made, labels),) = load_epoch(loader_of(split_of(paths), 8, **options, **DALI))
    ((expected, _),) = load_epoch(loader_of(split_of(paths), 8, **options, **NO_WORKERS))
    assert (made.float() - expected.float()).abs().mean((1, 2, 3)).max() < 1
    if crop == "center":
        corners = made[labels.argsort(), 0][:, [2, 2, -3, -3], [2, -3, 2, -3]] > 127
        assert corners.int().argmax(1).tolist() == [0, 1, 3, 2, 0, 1, 3, 2]


def test_an_image_does_not_depend_on_its_batch(loader_of, jpegs):
    whole = torch.cat([images for images, _ in load_epoch(loader_of(jpegs, 15, train=False, **DALI))])
    pieces = torch.cat([images for images, _ in load_epoch(loader_of(jpegs, 4, train=False, **DALI))])
    assert torch.equal(whole, pieces)


@pytest.mark.parametrize("prefetch", [1, 2, 5])
def test_how_much_is_made_ahead_changes_nothing(loader_of, jpegs, prefetch):
    expected = [load_epoch(loader_of(jpegs, **DALI), epoch) for epoch in (0, 1)]
    loader = loader_of(jpegs, prefetch=prefetch, **DALI)
    assert all(equal_batches(load_epoch(loader, epoch), expected[epoch]) for epoch in (0, 1))
    made = iter(loader)
    next(made)
    assert len(loader._pipe.flight) == min(prefetch, len(loader) - 1)


def test_a_file_is_looked_at_once(loader_of, jpegs, monkeypatch):
    looked, examined = [], dali_source.verify_jpeg
    monkeypatch.setattr(dali_source, "verify_jpeg", lambda data: looked.append(1) or examined(data))
    loader = loader_of(jpegs, 5, **DALI)
    for epoch in range(3):
        load_epoch(loader, epoch)
    assert len(looked) == 15


def test_what_dali_cannot_decode_after_all_is_decoded_here(loader_of, kinds, monkeypatch):
    """Where all files pass for sound JPEGs, GIF for one makes DALI fail, in the middle of what it makes ahead."""
    expected = load_epoch(loader_of(kinds, 1, train=False, **DALI))
    monkeypatch.setattr(dali_source, "verify_jpeg", lambda data: True)
    loader = loader_of(kinds, 1, train=False, **DALI)
    for epoch in (0, 1):
        made = load_epoch(loader, epoch)
        gif = [kinds.path(n).endswith(".gif") for n in range(13)].index(True)
        assert equal_batches(made[gif : gif + 1], expected[gif : gif + 1])
        assert [labels.tolist() for _, labels in made] == [[n] for n in range(13)]


def test_a_file_that_goes_bad_while_training_is_named(loader_of, tmp_path):
    paths = [save(tmp_path / f"{n}.jpg", 40, 40) for n in range(8)]
    loader = loader_of(split_of(paths), 2, train=False, **DALI)
    expected = load_epoch(loader)
    paths[5].write_bytes(b"text")
    made = []
    with pytest.raises(UserError, match=rf"^{paths[5]}: cannot be read: not an image"):
        made.extend(loader)
    loader.on_bad_file = "skip"
    whole = load_epoch(loader)
    assert [labels.tolist() for _, labels in whole] == [[0, 1], [2, 3], [4], [6, 7]]
    assert equal_batches(whole[:2] + whole[3:], expected[:2] + expected[3:])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"auto_augment": "randaugment"},
            r"augment\.auto_augment=randaugment: loader=dali cannot do it; type loader=torch",
        ),
        ({"auto_augment": "trivialaugment"}, r"augment\.auto_augment=trivialaugment: loader=dali cannot"),
        ({"color_jitter": (0.4, 0.4, 0.4, 0.1)}, r"augment\.color_jitter=.*: loader=dali cannot"),
    ],
)
def test_what_it_cannot_execute_is_refused(loader_of, jpegs, options, said):
    with pytest.raises(UserError, match=said):
        loader_of(jpegs, augment=Augment(**options), **DALI)
    load_epoch(loader_of(jpegs, augment=Augment(**options), train=False, **DALI))  # which does none of it


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("workers", 0, r"loader\.workers=0: it can be auto, or a number of threads, at least 1"),
        ("workers", True, r"loader\.workers=True"),
        ("workers", "many", r"loader\.workers=many"),
        ("prefetch", 0, r"loader\.prefetch=0: a number of batches, at least 1"),
        ("prefetch", 1.5, r"loader\.prefetch=1\.5"),
        ("hw_decoder_load", 1.5, r"loader\.hw_decoder_load=1\.5: a share of the images"),
        ("hw_decoder_load", "half", r"loader\.hw_decoder_load=half"),
    ],
)
def test_values_that_cannot_be(loader_of, jpegs, option, value, said):
    with pytest.raises(UserError, match=said):
        loader_of(jpegs, **{**DALI, option: value})


def test_threads_by_themselves(loader_of, jpegs, monkeypatch):
    monkeypatch.setattr(dali_loader, "usable_cores", lambda: 3)
    assert loader_of(jpegs, loader="dali").workers == 3
    monkeypatch.setattr(dali_loader, "usable_cores", lambda: 64)
    assert loader_of(jpegs, loader="dali").workers == 8


def test_the_main_job_takes_it(job, tmp_path, caplog):
    for name, value in (("dark", 60), ("light", 190)):
        for number in range(40):
            (tmp_path / "tones" / name).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (20, 24), (value + number % 20,) * 3).save(tmp_path / "tones" / name / f"{number}.jpg")
    words = ("loader=dali", "loader.workers=1", "data=folder", f"data.root={tmp_path / 'tones'}", "data.batch_size=8")
    with caplog.at_level("INFO"):
        assert job("model=lenet", "data.cache.mode=encoded", "trainer.max_epochs=4", *words) == 1.0
    assert any(re.fullmatch("loader +dali, 1 threads, decoding on the CPU", line) for line in caplog.messages)
    assert yaml.safe_load((tmp_path / "run/hparams.yaml").read_text())["loader"] == "dali"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["loader.workers=0"], "loader.workers=0: it can be auto, or a number of threads, at least 1 for DALI"),
        (["augment=trivial"], "augment.auto_augment=trivialaugment: loader=dali cannot do it; type loader=torch"),
    ],
)
def test_the_main_job_says_what_cannot_be(job, words, said):
    with pytest.raises(UserError, match=f"^{said}$"):
        job("model=lenet", "loader=dali", *words)


def test_two_ranks_with_gloo(tmp_path):
    """In processes of their own: each image once an epoch, as many batches in both."""
    paths = [str(save(tmp_path / f"{n}.jpg")) for n in range(13)]
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
        rank, place, *paths = sys.argv[1:]
        rank = int(rank)
        distributed.init_process_group("gloo", init_method=f"file://{place}", rank=rank, world_size=2)
        split = Split(np.arange(len(paths)), paths=np.array([path.encode() for path in paths]))
        for train in (True, False):
            order = EpochSampler(len(paths), 2, seed=0, train=train, rank=rank, world_size=2)
            options = {"train": train, "image_size": 8, "channels": 3, "seed": 0, "workers": 1}
            loader = DaliLoader(split, order, augment=Augment(), **options)
            for epoch in (0, 1):
                loader.sampler.set_epoch(epoch)
                mine = [labels.tolist() for _, labels in loader]
                both = [None, None]
                distributed.all_gather_object(both, mine)
                if rank == 0:
                    print(json.dumps(both))
        distributed.destroy_process_group()
        """
    )
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(rank), str(tmp_path / "meet"), *paths], stdout=subprocess.PIPE, text=True
        )
        for rank in (0, 1)
    ]
    said = [rank.communicate(timeout=120)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0]
    epochs = [json.loads(line) for line in said[0].splitlines()]
    for first, second in epochs[:2]:
        assert len(first) == len(second) == 3
        assert len({label for batch in first + second for label in batch}) == 12
    for first, second in epochs[2:]:
        assert sorted(label for batch in first + second for label in batch) == list(range(13))


def test_a_process_ends_in_the_middle_of_an_iteration(tmp_path):
    path = str(save(tmp_path / "a.jpg"))
    code = textwrap.dedent(
        """
        import sys
        import numpy as np
        from cnnzoo.data.transforms.augment import Augment
        from cnnzoo.data.loaders.dali_loader import DaliLoader
        from cnnzoo.data.loaders.sampler import EpochSampler
        from cnnzoo.data.split import Split
        split = Split(np.arange(40), paths=np.array([sys.argv[1].encode()] * 40))
        order = EpochSampler(40, 2, seed=0, train=True)
        loader = DaliLoader(split, order, augment=Augment(), train=True, image_size=8, channels=3, seed=0, workers=2)
        batches = iter(loader)
        print(len(next(batches)[1]))
        """
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "2\n", "")


@needs_gpu
@pytest.mark.parametrize("crop", CROPS)
@pytest.mark.parametrize("mode", ["none", "encoded", "decoded"])
def test_the_torch_loaders_images_on_a_gpu(loader_of, jpegs, kinds, mode, crop):
    for split in (jpegs, kinds):
        stores = Cache(mode=mode).fill({"train": split}, channels=3, on_bad_file="error")
        split = replace(split, store=stores.get("train"))
        expected = load_epoch(loader_of(split, 4, crop=crop, image_size=32, **NO_WORKERS))
        made = load_epoch(loader_of(split, 4, crop=crop, image_size=32, device=torch.device("cuda", 0), **DALI))
        assert all(images.is_cuda and labels.is_cuda for images, labels in made)
        assert all(images.is_contiguous(memory_format=torch.channels_last) for images, _ in made)
        assert similar_batches([(images.cpu(), labels.cpu()) for images, labels in made], expected)


@needs_gpu
def test_a_batch_kept_on_a_gpu_never_changes(loader_of, jpegs):
    loader = loader_of(jpegs, device=torch.device("cuda", 0), **DALI)
    kept = list(loader)
    copies = [(images.cpu(), labels.cpu()) for images, labels in kept]
    for epoch in range(1, 4):
        load_epoch(loader, epoch)
    loader.close()
    assert equal_batches([(images.cpu(), labels.cpu()) for images, labels in kept], copies)
