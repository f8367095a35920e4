"""Networks for more than three channels and for 16 bits keep their preprocessing, and their jobs read such files."""

import json

import numpy as np
import pytest
import torch

import cnnzoo
from cnnzoo import models
from cnnzoo.data import Preprocess
from cnnzoo.errors import UserError
from cnnzoo.export.card import _preprocessing_text
from cnnzoo.export.program import with_preprocessing
from cnnzoo.inference.weights_file import save_safetensors
from cnnzoo.predict.predictor import predict_images
from tests.helpers.arrays import make_array, save_array

CHANNELS = 5


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    net = models.create_model("lenet5", num_classes=2, in_channels=CHANNELS).eval()
    net.preprocess = Preprocess(32, 1.0, CHANNELS, (0.5,) * CHANNELS, (0.25,) * CHANNELS, bits=16)
    net.classes = ("wheat", "maize")
    return net


@pytest.mark.parametrize("loader", ["npy", "tif"])
def test_predictions_equal_those_of_arrays(net, tmp_path, loader):
    paths = [save_array(tmp_path / f"{n}.{loader}", make_array(f"{n}", 40, 50, CHANNELS)) for n in range(3)]
    wrong = save_array(tmp_path / "wrong.npy", make_array("wrong", 40, 50, 3))
    predictions = list(predict_images(net, [*map(str, paths), str(wrong)], device="cpu"))
    for n, prediction in enumerate(predictions[:3]):
        with torch.inference_mode():
            logits = net(net.preprocess(make_array(f"{n}", 40, 50, CHANNELS))[None])
        assert prediction.probabilities == pytest.approx(logits.softmax(1)[0].sort(descending=True)[0].tolist())
    assert predictions[3].error == "has 3 channels with 16 bits, expected 5 channels with 16 bits"


def test_weights_file_keeps_channels_and_bits(net, tmp_path):
    save_safetensors(net, tmp_path / "net.safetensors")
    loaded = cnnzoo.load_run(tmp_path / "net.safetensors")
    assert loaded.preprocess.arguments == net.preprocess.arguments
    assert loaded.preprocess.arguments["bits"] == 16
    rgb = cnnzoo.create_model("lenet5", weights=tmp_path / "net.safetensors", in_channels=3)
    assert not hasattr(rgb, "preprocess")


def test_spread_weights_give_the_same_output_for_equal_channels(tmp_path):
    net = models.create_model("resnet20", num_classes=2).eval()
    torch.save(net.state_dict(), tmp_path / "net.pth")
    wide = models.create_model("resnet20", num_classes=2, weights=tmp_path / "net.pth", in_channels=7).eval()
    image = torch.rand(1, 1, 32, 32)
    torch.testing.assert_close(
        wide(image.expand(-1, 7, -1, -1)), net(image.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-4
    )


def test_export_states_the_format(net):
    assert "converts an image to 5 channels with 16 bits" in _preprocessing_text(net.preprocess)
    with pytest.raises(UserError, match="preprocess=true: the graph takes uint8 images"):
        with_preprocessing(net)


def test_preprocess_of_another_format_raises(net):
    for pixels, message in (
        (np.zeros((8, 8, 3), np.uint16), r"pixels must be uint8 or uint16 \(H, W, 5\), not uint16 \(8, 8, 3\)"),
        (np.zeros((8, 8, 5), np.float32), "not float32"),
        (np.zeros((8, 8), np.uint16), r"not uint16 \(8, 8\)"),
    ):
        with pytest.raises(UserError, match=message):
            net.preprocess(pixels)
    with pytest.raises(UserError, match=r"mean=\[0\.5, 0\.5\]: 2 numbers, expected 5"):
        Preprocess(32, 1.0, 5, (0.5, 0.5), (0.25,))


@pytest.mark.long
def test_run_with_five_channels_trains_evaluates_and_exports(fork, tmp_path):
    for number in range(30):
        pixels = make_array(f"{number}", 20, 26, CHANNELS) // (1 + 3 * (number % 2))
        save_array(tmp_path / "fields" / "ab"[number % 2] / f"{number}.{['npy', 'tif'][number // 15]}", pixels)
    run_dir = tmp_path / "run"
    settings = f"data.root={tmp_path / 'fields'} data.channels=5 data.bits=16 data.batch_size=8 augment.rotation=10"
    trained = fork(*f"model=lenet data=folder {settings} trainer=cpu trainer.max_epochs=1 run_dir={run_dir}".split())
    assert "5 channels with 16 bits, batches of 8" in trained.stdout
    assert "augment.mean=[" in trained.stdout
    expected = json.loads((run_dir / "metrics.json").read_text())
    evaluated = fork(f"run={run_dir}", f"out={tmp_path / 'evaluation'}", job="evaluate")
    assert f"top-1 {expected['test/acc1']:.4f}" in evaluated.stdout
    exported = fork(f"run={run_dir}", f"out={tmp_path / 'net.pt2'}", job="export")
    assert "float32 (batch, 5, 32, 32)" in exported.stdout
