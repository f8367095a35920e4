"""The network and the data that a configuration builds, against torchvision's preprocessing."""

import hydra
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models import get_model_weights

from cnnzoo import cli
from cnnzoo.data import ImageFolder
from cnnzoo.data.datamodule import DataModule
from cnnzoo.training import train


def sample_photo(height, width, seed):
    """An image with smooth patches, an edge and noise."""
    rng = np.random.default_rng(seed)
    patches = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    pixels = np.asarray(patches.resize((width, height), Image.Resampling.BICUBIC)).astype(float)
    pixels[height // 3 :, width // 2 :] *= 0.4
    return Image.fromarray((pixels + rng.normal(0, 6, pixels.shape)).clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize("weights", ["IMAGENET1K_V1", "IMAGENET1K_V2"])
def test_evaluation_preprocessing_equals_the_weights(tmp_path, monkeypatch, weights):
    for n, (height, width) in enumerate([(300, 400), (500, 375), (260, 900), (231, 224), (1200, 800), (333, 500)]):
        for split in ("train", "val"):
            path = tmp_path / split / "ab"[n % 2] / f"{n}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            sample_photo(height, width, n).save(path, quality=92)
    data = DataModule(ImageFolder, root=str(tmp_path), batch_size=6)
    monkeypatch.setattr(train, "create_model", lambda *args, **kwargs: torch.nn.Identity())
    with hydra.initialize_config_dir(str(cli.CONF), version_base="1.3"):
        cfg = hydra.compose("train", overrides=["model.name=resnet50", f"model.weights={weights}"])
    train.build_network(cfg.model, data)

    transforms = get_model_weights("resnet50")[weights].transforms()
    assert transforms.antialias
    scale = 255 * torch.tensor(transforms.std).view(-1, 1, 1)
    (batch,) = data.val_dataloader()
    images, _ = data.on_after_batch_transfer(batch, 0)
    split = data.split("val")
    for n, image in enumerate(images):
        expected = transforms(Image.open(split.path(n)))
        assert image.shape == expected.shape == (3, 224, 224)
        assert ((image - expected) * scale).abs().mean() < 1
        assert ((data.preprocessor()(split.path(n)) - expected) * scale).abs().mean() < 1
