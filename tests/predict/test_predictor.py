"""`predict_images` answers as the network does for each single image, and reports the files that it cannot read."""

import multiprocessing
from functools import partial

import pytest
import torch

from cnnzoo.data import DaliLoader, TorchLoader
from cnnzoo.errors import UserError
from cnnzoo.models import create_model
from cnnzoo.predict import predictor
from cnnzoo.predict.predictor import predict_batches, predict_images, resolve_batch_size
from tests.helpers.loaders import needs_dali

GOOD = (
    *("color.jpg", "rotated.jpeg", "cmyk.jpg", "gray.png", "16bit.PNG", "wide.tif", "large.jpg"),
    *("more é/alpha.webp", "more é/palette.gif", "more é/pixel.bmp"),
)
BAD = {
    "broken.jpg": "Premature end of JPEG file",
    "empty.png": "an empty file",
    "folder.jpg": "Is a directory",
    "missing.jpg": "No such file or directory",
    "strip.png": "1 x 5000 pixels: one side is more than 1,000 times the other",
    "text.gif": "not an image, or in a format that Pillow does not support",
}


def expected_probabilities(net, path):
    with torch.inference_mode():
        return net(net.preprocess(path)[None]).softmax(1)[0]


@pytest.mark.parametrize(
    ("loader", "batch_size"),
    [
        (partial(TorchLoader, workers=0), 4),
        (partial(TorchLoader, workers=2, kind="threads"), 3),
        (partial(TorchLoader, workers=2), 1),
        pytest.param(partial(DaliLoader, workers=2), 4, marks=needs_dali),
    ],
    ids=["none", "threads", "processes", "dali"],
)
def test_predictions_equal_those_of_single_images(net, photos, loader, batch_size):
    paths = [photos / name for name in GOOD]
    predictions = list(predict_images(net, paths, topk=4, batch_size=batch_size, device="cpu", loader=loader))
    assert [prediction.path for prediction in predictions] == list(map(str, paths))
    tolerance = 0.03 if loader.func is DaliLoader else 1e-4  # DALI rounds differently when it resizes
    for prediction, path in zip(predictions, paths, strict=True):
        expected = expected_probabilities(net, path)
        assert prediction.error is None
        assert list(prediction.probabilities) == sorted(prediction.probabilities, reverse=True)
        assert [net.classes[index] for index in prediction.indices] == list(prediction.classes)
        assert torch.tensor(prediction.probabilities).sub(expected[list(prediction.indices)]).abs().max() < tolerance
    assert len({prediction.probabilities for prediction in predictions}) > 5  # the images differ


@pytest.mark.parametrize("batch_size", [1, 4, "auto"])
def test_bad_files_are_reported_in_their_places(net, photos, batch_size):
    names = ["missing.jpg", *sorted([*GOOD, *BAD]), "broken.jpg", "color.jpg"]
    predictions = list(predict_images(net, [photos / name for name in names], batch_size=batch_size, device="cpu"))
    assert [prediction.path for prediction in predictions] == [str(photos / name) for name in names]
    assert [prediction.error for prediction in predictions] == [BAD.get(name) for name in names]
    for prediction in predictions:
        assert len(prediction.classes) == (4 if prediction.error is None else 0)


def test_results_that_are_read_later_are_the_same(net, photos, monkeypatch):
    paths = [photos / name for name in (*GOOD, *BAD)]
    expected = list(predict_images(net, paths, batch_size=3, device="cpu"))
    create = predictor._Classifier.__init__

    def create_for_gpu(self, *arguments):
        create(self, *arguments)
        self.max_pending = 1

    monkeypatch.setattr(predictor._Classifier, "__init__", create_for_gpu)
    assert list(predict_images(net, paths, batch_size=3, device="cpu")) == expected


def test_closed_predictions_leave_no_worker(net, photos):
    batches = predict_batches(
        net, [photos / "color.jpg"] * 40, batch_size=2, device="cpu", loader=partial(TorchLoader, workers=2)
    )
    assert len(next(batches)) == 2
    assert len(multiprocessing.active_children()) == 2
    batches.close()
    assert not multiprocessing.active_children()


def test_network_without_preprocessing_is_an_error(photos):
    net = create_model("lenet5", in_channels=3, num_classes=3)
    with pytest.raises(UserError, match="no preprocessing"):
        predict_images(net, [photos / "color.jpg"])
    net.preprocess = lambda: None
    with pytest.raises(UserError, match="no preprocessing"):
        predict_images(net, [photos / "color.jpg"])


def test_classes_are_numbers_if_the_network_has_no_names(net, photos):
    other = create_model("lenet5", in_channels=3, num_classes=3)
    other.preprocess = net.preprocess
    (prediction,) = predict_images(other, [photos / "color.jpg"], topk=2)
    assert prediction.classes == tuple(map(str, prediction.indices))
    assert len(prediction.classes) == 2


def test_no_paths_give_no_predictions(net):
    assert list(predict_images(net, [], device="cpu")) == []


def test_precision_bf16_rounds_logits(net, photos):
    paths = [photos / name for name in GOOD]
    exact, rounded = (
        [prediction.probabilities for prediction in predict_images(net, paths, device="cpu", precision=precision)]
        for precision in ("32", "bf16")
    )
    difference = (torch.tensor(exact) - torch.tensor(rounded)).abs().max()
    assert 0 < difference < 0.05


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"topk": 0}, "topk=0"),
        ({"batch_size": 0}, "batch_size=0: expected a whole number >= 1 or auto"),
        ({"device": "gpu"}, "device=gpu: expected cpu, cuda or mps"),
        ({"device": "cuda:99"}, "device=cuda:99: torch finds no such device"),
        ({"precision": "64"}, "precision=64: expected auto, 32 or bf16"),
    ],
)
def test_bad_option_raises_before_the_first_image(net, options, message):
    with pytest.raises(UserError, match=message):
        predict_images(net, ["nowhere.jpg"], **options)


def test_auto_batch_size_gives_each_core_a_batch(monkeypatch):
    monkeypatch.setattr(predictor, "usable_cores", lambda: 4)
    sizes = [resolve_batch_size("auto", images, torch.device("cpu")) for images in (0, 1, 4, 10, 10_000)]
    assert sizes == [1, 1, 1, 3, 64]
    assert resolve_batch_size("auto", 10_000, torch.device("cuda")) == 256
    assert resolve_batch_size(5, 10_000, torch.device("cpu")) == 5
