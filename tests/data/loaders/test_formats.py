"""Images of many channels and of 16 bits, through all caches and workers; the loaders that cannot load them refuse."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as tv

from cnnzoo.data.cache.cache import Cache
from cnnzoo.data.datasets.builtin import Digits
from cnnzoo.data.datasets.folder import ImageFolder
from cnnzoo.data.image_data import ImageData
from cnnzoo.data.loaders.auto import resolve_auto_loader
from cnnzoo.data.loaders.batch_builder import BatchBuilder, BatchRequest
from cnnzoo.data.loaders.gpu_placement import unsupported
from cnnzoo.data.loaders.transfer import to_device
from cnnzoo.data.statistics import measure_statistics
from cnnzoo.data.transforms.augment import Augment
from cnnzoo.data.transforms.geometry import augment_batch, resize
from cnnzoo.data.transforms.preprocess import Preprocess, normalize
from cnnzoo.errors import UserError
from tests.helpers.arrays import make_array, save_array
from tests.helpers.images import make_split, save_image
from tests.helpers.loaders import DALI, NO_WORKERS, equal_batches, load_epoch, needs_dali

CHANNELS = 5
FORMAT = {"channels": CHANNELS, "bits": 16}
DECODED = {"on_bad_file": "error", **FORMAT}


def pixels_of(number):
    return make_array(f"{number}", 18 + 4 * (number % 5), 22, CHANNELS)


@pytest.fixture(scope="module")
def arrays(tmp_path_factory):
    """A split of fourteen files of five channels with 16 bits, NumPy arrays and TIFF of five sizes."""
    root = tmp_path_factory.mktemp("arrays")
    return make_split([save_array(root / f"{n}{['.npy', '.tif'][n % 2]}", pixels_of(n)) for n in range(14)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of two classes with six images each, of five channels with 16 bits."""
    root = tmp_path_factory.mktemp("folder")
    for number in range(12):
        save_array(root / "ab"[number % 2] / f"{number}.npy", pixels_of(number))
    return root


@pytest.mark.parametrize("crop", ["center", "padded", "random_resized"])
def test_transforms_equal_torchvision(crop):
    """At 65,536 levels, the differences are those of 8 bits or less."""
    pixels = np.stack([make_array(f"{n}", 30, 44, CHANNELS) for n in range(4)])
    augment = Augment(crop=crop, flip=0.5, vertical_flip=0.5)
    params = augment.sample(0, 0, np.arange(4), np.full((4, 2), (30, 44)), (24, 24))
    images = augment_batch(pixels, params)
    assert images.dtype == torch.uint16
    for n, image in enumerate(images):
        expected = torch.from_numpy(pixels[n].astype(np.float32)).permute(2, 0, 1)
        expected = tv.resize(expected, params.resize_to[n].tolist(), antialias=True)
        top, left, height, width = params.crops[n].tolist()
        expected = tv.crop(tv.pad(expected, [9]), top + 9, left + 9, height, width)
        expected = tv.resize(expected, [24, 24], antialias=True)
        expected = tv.horizontal_flip(expected) if params.flips[n] else expected
        expected = tv.vertical_flip(expected) if params.vertical_flips[n] else expected
        assert (image.float() - expected).abs().max() <= 1


def test_uint8_of_many_channels_equals_torchvision():
    pixels = make_array("many", 30, 44, 200, np.uint8)  # more than OpenCV's arrays can have
    for crop in ((0, 0, 10, 12), (0, 0, 30, 44)):  # enlarged and reduced
        params = Augment(crop="random_resized").sample(0, 0, np.arange(1), np.array([[30, 44]]), (24, 24))
        params = replace(params, crops=np.array([crop]), flips=np.array([True]))
        image = augment_batch(pixels[None], params)[0]
        expected = torch.from_numpy(pixels).permute(2, 0, 1)
        expected = tv.horizontal_flip(tv.resized_crop(expected, *crop, [24, 24], antialias=True))
        assert (image.float() - expected.float()).abs().max() <= 1


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("mode", ["none", "encoded", "decoded"])
def test_caches_and_workers_give_equal_batches(make_loader, arrays, mode, train):
    augment = Augment(crop="random_resized", flip=0.5, rotate90=True, rotation=10, random_erase=0.5)
    options = {"augment": augment, "train": train, **FORMAT}
    expected = load_epoch(make_loader(arrays, 4, **options, **NO_WORKERS))
    assert {images.dtype for images, _ in expected} == {torch.uint16}
    assert expected[0][0].shape == (4, CHANNELS, 16, 16)
    store = Cache(mode=mode).fill({"train": arrays}, **DECODED).get("train")
    kind = {"none": "processes", "encoded": "threads", "decoded": "processes"}[mode]
    loader = make_loader(replace(arrays, store=store), 4, workers=2, kind=kind, **options)
    assert equal_batches(load_epoch(loader), expected)


def test_decoded_cache_holds_16_bits(arrays, tmp_path):
    cache = Cache(mode="decoded", persist=str(tmp_path))
    for _ in range(2):  # filled, then mapped
        store = cache.fill({"train": arrays}, **DECODED)["train"]
        assert np.array_equal(store.get(3)[0], pixels_of(3))
    assert len(list(tmp_path.glob("*.json"))) == 1


def test_decoded_cache_resizes_16_bits(arrays):
    store = Cache(mode="auto", resize=8).fill({"train": arrays}, **DECODED)["train"]
    assert np.array_equal(store.get(0)[0], resize(pixels_of(0)[None], 8, 9)[0])
    with pytest.raises(UserError, match=r"data\.cache\.mode=encoded: JPEGs of data\.cache\.resize=8 cannot have"):
        Cache(mode="encoded", resize=8).fill({"train": arrays}, **DECODED)


def test_bad_files_are_reported_and_replaced(make_loader, arrays, tmp_path, caplog):
    wrong = save_array(tmp_path / "wrong.npy", make_array("wrong", 20, 20, 4))
    split = make_split([*(arrays.path(n) for n in range(3)), str(wrong), save_image(tmp_path / "rgb.png")])
    for mode in ("encoded", "decoded"):
        with pytest.raises(UserError, match=r"2 files cannot be read .*rgb\.png: has 3 .*wrong\.npy: has 4 channels"):
            Cache(mode=mode).fill({"train": split}, **DECODED)
    with caplog.at_level(logging.WARNING):
        ((images, labels),) = load_epoch(make_loader(split, 5, **FORMAT, on_bad_file="skip", **NO_WORKERS))
    assert images.dtype == torch.uint16
    assert set(labels.tolist()) == {0, 1, 2}
    assert "wrong.npy: has 4 channels with 16 bits, expected 5" in caplog.text


def test_erased_boxes_are_filled_with_the_mean(arrays):
    augment = Augment(random_erase=1.0, mean=(0.5,) * CHANNELS, std=(1.0,) * CHANNELS)
    builder = BatchBuilder(arrays, augment, True, (16, 16), CHANNELS, 0, 16)
    images = builder.build(BatchRequest(0, np.arange(4))).images.int()
    assert ((images == round(65535 * 0.5)).all(1).sum((1, 2)) > 3).all()


def test_normalization_divides_by_the_largest_value():
    wide = torch.tensor([0, 257, 65535], dtype=torch.int32).to(torch.uint16).view(1, 1, 1, 3)
    narrow = torch.tensor([0, 1, 255], dtype=torch.uint8).view(1, 1, 1, 3)
    expected = normalize(narrow, [0.3], [0.2])
    torch.testing.assert_close(normalize(wide, [0.3], [0.2]), expected)
    images, _ = to_device((wide, torch.zeros(1)), torch.device("meta"))  # as devices without uint16
    assert images.dtype == torch.int32
    torch.testing.assert_close(normalize(wide.int(), [0.3], [0.2]), expected)


def test_statistics_are_measured_on_training_images(arrays, caplog):
    with caplog.at_level(logging.INFO):
        mean, std = measure_statistics(arrays, CHANNELS, 16)
    values = np.concatenate([pixels_of(n).reshape(-1, CHANNELS) for n in range(14)]) / 65535
    assert mean == pytest.approx(values.mean(0), abs=1e-4)
    assert std == pytest.approx(values.std(0), abs=1e-4)
    assert "measured on 14 images of the training split" in caplog.text


def test_statistics_of_unreadable_images_raise(tmp_path):
    split = make_split([save_image(tmp_path / "rgb.png")])
    with pytest.raises(UserError, match=r"no training image can be read as 5 channels; .*rgb\.png: has 3 channels"):
        measure_statistics(split, 5, 8)


def test_image_data_loads_and_preprocesses_alike(folder):
    data = ImageData(ImageFolder, root=str(folder), channels=CHANNELS, bits=16, image_size=16, batch_size=4)
    images, _ = next(iter(data.get_loader("val")))
    assert images.dtype == torch.uint16
    path = data.split("val").path(0)
    preprocess = Preprocess(**data.preprocess)
    assert data.preprocess["bits"] == 16
    assert data.preprocess["mean"] == list(measure_statistics(data.split("train"), CHANNELS, 16)[0])
    for image in (path, np.load(path)):
        assert torch.equal(preprocess(image), data.normalize(images)[0])


def test_augment_mean_and_std_are_not_measured(folder, caplog):
    augment = Augment(mean=(0.5,), std=(0.25,))
    data = ImageData(ImageFolder, root=str(folder), channels=CHANNELS, bits=16, augment=augment)
    with caplog.at_level(logging.INFO):
        data.resolve_input()
    assert data.resolved_mean == (0.5,) * CHANNELS
    assert "measured" not in caplog.text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"augment": Augment(auto_augment="randaugment")}, r"augment\.auto_augment=randaugment: works only on 8 bits"),
        (
            {"augment": Augment(color_jitter=(0.4, 0, 0, 0))},
            r"augment\.color_jitter=\[0\.4,0\.0,0\.0,0\.0\]: works only on 8 bits and 1 or 3 channels, not on "
            r"5 channels with 16 bits; type augment\.color_jitter=null",
        ),
        ({"augment": Augment(mean=(0.1, 0.2, 0.3))}, r"augment\.mean=\[0\.1, 0\.2, 0\.3\]: 3 numbers, expected 1 or 5"),
        ({"augment": Augment(rotate90=True), "image_size": (16, 24)}, r"augment\.rotate90=true: needs a square"),
        ({"channels": 0}, r"data\.channels=0: expected a whole number >= 1"),
        ({"bits": 12}, r"data\.bits=12: expected 8 or 16"),
    ],
)
def test_settings_that_do_not_suit_the_images_raise(folder, settings, message):
    with pytest.raises(UserError, match=message):
        ImageData(ImageFolder, root=str(folder), **{"channels": CHANNELS, "bits": 16, **settings}).resolve_input()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"channels": 4},
            r"data\.channels=4: the images of data=digits have 8 bits and 1 channel; type data\.channels=1",
        ),
        ({"bits": 16}, r"data\.bits=16: the images of data=digits have 8 bits and 1 channel; leave data\.bits out"),
    ],
)
def test_data_set_in_memory_of_another_format_raises(settings, message):
    with pytest.raises(UserError, match=message):
        ImageData(Digits, **settings).resolve_input()


def test_gpu_dataset_and_auto_loader_use_the_cpu(arrays):
    store = Cache(mode="decoded").fill({"train": arrays}, **DECODED)["train"]
    builder = BatchBuilder(replace(arrays, store=store), Augment(), True, (16, 16), CHANNELS, 0, 16)
    assert unsupported(builder) == "they have 5 channels with 16 bits"
    assert resolve_auto_loader(arrays, Augment(), torch.device("cuda"), channels=CHANNELS, bits=16) == "torch"


@needs_dali
@pytest.mark.parametrize(
    ("options", "setting"), [(FORMAT, r"data\.bits=16"), ({"channels": 5}, r"data\.channels=5"), ({"bits": 16}, "bits")]
)
def test_dali_refuses_other_formats(make_loader, arrays, options, setting):
    with pytest.raises(UserError, match=rf"{setting}.*: loader=dali supports only 8 bits and 1 or 3 channels; type"):
        make_loader(arrays, **options, **DALI)


def test_many_files_of_another_format_are_one_short_error(tmp_path):
    paths = [save_array(tmp_path / f"{n:02}.npy", make_array("a", 8, 8, 4)) for n in range(12)]
    expected = r"^12 files cannot be read \(.*00\.npy and all others: has 4 channels with 16 bits, expected 5"
    with pytest.raises(UserError, match=expected):
        Cache(mode="decoded").fill({"train": make_split(paths)}, **DECODED)
