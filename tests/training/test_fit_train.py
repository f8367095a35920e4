"""A run with rectangular, padded images: training, its checkpoint, inference, evaluation and export."""

import json

import pytest
import torch
from omegaconf import OmegaConf

import cnnzoo
from cnnzoo.cli.resume import merge_run_config
from cnnzoo.data.datamodule import DataModule
from cnnzoo.data.datasets.builtin import Digits
from cnnzoo.errors import UserError
from cnnzoo.evaluate.images import select_images
from cnnzoo.export.program import example_images
from cnnzoo.inference.weights_file import save_safetensors

OVERRIDES = (
    *("model=resnet", "model.name=resnet20", "data.image_size=[16,24]", "data.fit=pad", "data.start_size=8"),
    *("trainer.max_epochs=2", "trainer.limit_train_batches=2", "trainer.limit_val_batches=1"),
)


def test_rectangular_run_is_the_same_in_inference(job, tmp_path, caplog):
    caplog.set_level("INFO")
    job(*OVERRIDES)
    table = next(message for message in caplog.messages if message.startswith("input"))
    assert "16 x 24 pixels (height x width) (from [8,12] in the first epochs), fit=pad, 1 channel" in table
    assert "training images: 16 x 24 pixels (height x width) from epoch 2 on" in caplog.messages

    run = tmp_path / "run"
    preprocess = torch.load(run / "checkpoints/best.ckpt", weights_only=True)["cnnzoo"]["preprocess"]
    assert (preprocess["image_size"], preprocess["fit"], preprocess["eval_resize"]) == ([16, 24], "pad", 1.0)
    net = cnnzoo.load_run(run)
    assert net.preprocess.arguments == preprocess
    test = Digits(split_seed=0).split("test")
    with torch.no_grad():
        logits = net(torch.stack([net.preprocess(image) for image in test.pixels]))
    accuracy = (logits.argmax(1) == torch.from_numpy(test.labels)).float().mean().item()
    assert accuracy == pytest.approx(json.loads((run / "metrics.json").read_text())["test/acc1"], abs=1e-6)

    assert example_images(net, 2).shape == (2, 1, 16, 24)
    assert example_images(net, 2, image_size=[20, 9]).shape == (2, 1, 20, 9)
    save_safetensors(net, tmp_path / "net.safetensors")
    weights = cnnzoo.create_model("resnet20", in_channels=1, num_classes=10, weights=tmp_path / "net.safetensors")
    assert weights.preprocess.arguments == preprocess
    selected = select_images(DataModule(Digits), net, "test")
    assert selected.preprocess == preprocess
    images = next(iter(selected.test_dataloader()))[0]
    torch.testing.assert_close(selected.normalize(images)[0], net.preprocess(test.pixels[0]))


def test_resumed_run_keeps_its_fit_and_size(tmp_path):
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra/config.yaml").write_text("{data: {image_size: [16, 24]}, run_dir: x, resume: null}")  # no `fit`
    settings = OmegaConf.create({"data": {"image_size": [16, 24], "fit": "crop"}})
    assert "fit" not in merge_run_config(tmp_path, settings, settings, []).data
    for data in ({"image_size": [16, 24], "fit": "pad"}, {"image_size": [24, 16], "fit": "crop"}):
        with pytest.raises(UserError, match=r"data\.(fit=pad|image_size=\[24, 16\]): the run in .* has "):
            merge_run_config(tmp_path, settings, OmegaConf.create({"data": data}), [])
