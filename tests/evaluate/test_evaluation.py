"""`evaluate` and `Ensemble`: their figures against what they are defined by."""

from functools import partial

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import multiclass_calibration_error, multiclass_f1_score

from cnnzoo import create_model
from cnnzoo.data import Digits, ImageFolder, Preprocess
from cnnzoo.data.datamodule import DataModule
from cnnzoo.data.transforms.augment import Augment
from cnnzoo.errors import UserError
from cnnzoo.evaluate.evaluation import NUM_BINS, Ensemble, Predictions, evaluate, reliability_bins
from tests.helpers.images import save_image


@pytest.fixture(scope="module")
def net():
    """A LeNet-5 with random weights for the digits, which tells its classes apart a little."""
    torch.manual_seed(0)
    net = create_model("lenet5", in_channels=1).eval()
    net.preprocess = Preprocess(32, 1.0, 1, (0.3,), (0.4,))
    net.classes = tuple("0123456789")
    return net


@pytest.fixture(scope="module")
def result(net):
    return evaluate(net, DataModule(Digits))


def logits_of(net, images):
    with torch.no_grad():
        return net(torch.stack([net.preprocess(image) for image in images]))


def test_evaluate_equals_logits_of_single_images(net, result):
    split = Digits().split("test")
    logits, labels = logits_of(net, split.pixels), torch.from_numpy(split.labels)
    torch.testing.assert_close(result.predictions.logits, logits, rtol=1e-5, atol=1e-5)
    assert torch.equal(result.predictions.labels, labels)
    predicted = logits.argmax(1)
    assert result.metrics["acc1"] == pytest.approx(float((predicted == labels).float().mean()))
    top5 = (logits.topk(5).indices == labels[:, None]).any(1).float().mean()
    assert result.metrics["acc5"] == pytest.approx(float(top5))
    assert result.metrics["loss"] == pytest.approx(float(torch.nn.functional.cross_entropy(logits, labels)), rel=1e-5)
    assert result.metrics["f1"] == pytest.approx(float(multiclass_f1_score(logits, labels, 10)), abs=1e-6)
    error = multiclass_calibration_error(logits.softmax(1), labels, 10, n_bins=15, norm="l1")
    assert result.metrics["calibration_error"] == pytest.approx(float(error), abs=1e-5)


def test_evaluate_confusion_counts_all_images(result):
    predictions = result.predictions
    assert result.images == result.confusion.sum() == len(predictions.labels) == 360
    for true, predicted in ((3, 5), (8, 8)):
        count = ((predictions.labels == true) & (predictions.predicted == predicted)).sum()
        assert result.confusion[true, predicted] == count
    rows = result.per_class()
    assert [row["class"] for row in rows] == list("0123456789")
    assert sum(row["images"] for row in rows) == 360
    recalls = [row["recall"] for row in rows]
    assert result.metrics["balanced_acc"] == pytest.approx(np.mean(recalls), abs=1e-6)


def test_evaluate_leaves_the_data_unchanged(net):
    data = DataModule(Digits, augment=Augment(crop="padded"))
    assert [evaluate(net, data, split=split).images for split in ("val", "train", "all")] == [144, 1293, 1797]
    assert not data.input_resolved
    assert len(data.split("test")) == 360


def test_evaluate_test_time_flip_averages_logits(net):
    flipped = evaluate(net, DataModule(Digits), split="val", test_time_flip=True)
    pixels = Digits().split("val").pixels
    expected = (logits_of(net, pixels) + logits_of(net, np.ascontiguousarray(pixels[:, :, ::-1]))) / 2
    torch.testing.assert_close(flipped.predictions.logits, expected, rtol=1e-5, atol=1e-5)


def test_evaluate_skips_bad_files_and_keeps_paths_aligned(tmp_path):
    net = create_model("resnet20", num_classes=2).eval()
    net.preprocess, net.classes = Preprocess(32, 1.0, 3, (0.5,) * 3, (0.5,) * 3), ("blue", "red")
    for split in ("train", "val", "test"):
        for name in net.classes:
            for n in range(3):
                save_image(tmp_path / split / name / f"{n}.png")
    (tmp_path / "test/blue/1.png").write_bytes(b"no image")
    source = partial(ImageFolder)
    with pytest.raises(UserError, match=r"blue/1\.png.*on_bad_file=skip"):
        evaluate(net, DataModule(source, root=str(tmp_path)))
    result = evaluate(net, DataModule(source, root=str(tmp_path), on_bad_file="skip", batch_size=2))
    assert result.skipped == (str(tmp_path / "test/blue/1.png"),)
    assert result.predictions.paths == tuple(
        str(tmp_path / "test" / name) for name in ("blue/0.png", "blue/2.png", "red/0.png", "red/1.png", "red/2.png")
    )
    assert result.predictions.labels.tolist() == [0, 0, 1, 1, 1]
    assert "acc5" not in result.metrics


def random_predictions(seed, images=500):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 7, (images,), generator=generator)
    logits = 2 * torch.randn(images, 7, generator=generator)
    return Predictions(logits, logits.argmax(1), labels, None)


def test_reliability_bins_give_the_calibration_error():
    predictions = random_predictions(0)
    bins = reliability_bins(predictions)
    error = sum(b.images * abs(b.accuracy - b.confidence) for b in bins) / 500
    expected = multiclass_calibration_error(predictions.logits.softmax(1), predictions.labels, 7, n_bins=NUM_BINS)
    assert error == pytest.approx(float(expected), abs=1e-6)
    assert sum(b.images for b in bins) == 500
    assert all(n / NUM_BINS <= b.confidence < (n + 1) / NUM_BINS for n, b in enumerate(bins) if b.images)


def test_reliability_bins_include_certainty():
    certain = Predictions(torch.tensor([[200.0, 0.0]]), torch.tensor([0]), torch.tensor([0]), None)
    assert vars(reliability_bins(certain)[-1]) == {"images": 1, "confidence": 1.0, "accuracy": 1.0}


def test_ensemble_averages_probabilities(net):
    other = create_model("lenet5", in_channels=1).eval()
    other.preprocess, other.classes = net.preprocess, net.classes
    members = [evaluate(member, DataModule(Digits)) for member in (net, other)]
    ensemble = Ensemble()
    for member in members:
        ensemble.add(member)
    result, labels = ensemble.evaluation(), members[0].predictions.labels
    probabilities = sum(member.predictions.logits.softmax(1) for member in members) / 2
    torch.testing.assert_close(result.predictions.logits.softmax(1), probabilities)
    accuracy = (probabilities.argmax(1) == labels).float().mean()
    assert result.metrics["acc1"] == pytest.approx(float(accuracy))
    loss = -probabilities[torch.arange(360), labels].log().mean()
    assert result.metrics["loss"] == pytest.approx(float(loss), rel=1e-5)
    assert result.metrics.keys() == members[0].metrics.keys()
    mean = ensemble.mean_metrics()
    assert mean["f1"] == pytest.approx((members[0].metrics["f1"] + members[1].metrics["f1"]) / 2)
    assert result.seconds == sum(member.seconds for member in members)


def test_ensemble_of_one_network_equals_it(result):
    ensemble = Ensemble()
    ensemble.add(result)
    assert ensemble.evaluation().metrics == pytest.approx(result.metrics, abs=1e-6)


def test_ensemble_of_other_images_raises(net, result):
    ensemble = Ensemble()
    ensemble.add(result)
    with pytest.raises(ValueError, match="the same images"):
        ensemble.add(evaluate(net, DataModule(Digits), split="val"))
