"""The files that the cases name: folders of images, runs, weights, configurations. Each case gets its own directory."""

from __future__ import annotations

import os
import pickle
import re
import shutil
import subprocess
import sys
import tarfile
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image

USER_MODULE = """
from torch import nn


class TinyNet(nn.Module):
    def __init__(self, num_classes=10, in_channels=1, width=4):
        super().__init__()
        self.conv, self.head = nn.Conv2d(in_channels, width, 3), nn.Linear(width, num_classes)

    def forward(self, x):
        return self.head(self.conv(x).relu().mean((2, 3)))


class TwoOutputs(TinyNet):
    def forward(self, x):
        return super().forward(x), None


class Fixed(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(64, 7))


network, callback = TinyNet(), None
"""
SHORT = ("model=lenet", "trainer.max_epochs=1", "trainer.limit_train_batches=2", "trainer=cpu")
RUNS = ("run", "unfinished", "sweep")
STAGES = Path(__file__).with_name("stages")
"""A directory with a `sitecustomize` that sends a signal; see `Case.signal`."""


def create_files(directory: Path) -> None:
    """Create the places that need no run in `directory`."""
    directory.mkdir(parents=True)
    classes = {"red": (200, 30, 30), "blue": (30, 30, 200)}
    for name, count in {"flowers": 40, "few": 23, "three": 2, "one_class": 20, "corrupt": 20}.items():
        for label, color in list(classes.items())[: 1 if name == "one_class" else 2]:
            _write_images(directory / name / label, color, count)
    (directory / "three/blue/1.png").unlink()
    (directory / "corrupt/red/3.png").write_bytes(b"no image")
    _write_images(directory / "flat", (90, 90, 90), 5)
    for label in classes:
        (directory / "not_images" / label).mkdir(parents=True)
        (directory / "not_images" / label / "notes.txt").write_text("no image")
    _write_listings(directory)
    for number in range(40):  # four channels with 16 bits
        folder = directory / "bands" / ("red", "blue")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / f"{number}.npy", np.full((32, 32, 4), number, np.uint16))
    (directory / "empty").mkdir()
    (directory / "notes.txt").write_text("a file\n")

    (directory / "zz_user.py").write_text(USER_MODULE)
    (directory / "garbage.pth").write_bytes(b"no weights " * 100)
    (directory / "empty.pth").write_bytes(b"")
    (directory / "pickled.pth").write_bytes(pickle.dumps(_Unsafe()))
    for where, text in {
        "mine/experiment/mine.yaml": "# @package _global_\n# Mine\ndefaults:\n  - override /model: lenet\nseed: 5\n",
        "mine/experiment/typo.yaml": "# @package _global_\n# Mine\ntrainer:\n  max_epoch: 5\n",
        "mine/experiment/bad.yaml": "# @package _global_\n# Mine\ntrainer: [1, {\n",
        "mine/optimizer/adagrad.yaml": "# Adagrad\n_target_: torch.optim.Adagrad\n_partial_: true\nlr: 0.01\n",
    }.items():
        (directory / where).parent.mkdir(parents=True, exist_ok=True)
        (directory / where).write_text(text)


def create_runs(root: Path, directory: Path) -> None:
    """Create the runs and the weights; `root` is the checkout whose jobs write them."""

    def job(*command: str, **variables: str) -> None:
        environment = {**os.environ, "PYTHONPATH": f"{STAGES}{os.pathsep}{root}", **variables}
        subprocess.run([sys.executable, *command], cwd=directory, env=environment, capture_output=True, timeout=300)

    stop = "SIGTERM cnnzoo.training.classifier Classifier.training_step"
    job(str(root / "train.py"), *SHORT, "run_dir=run")
    job(str(root / "train.py"), *SHORT[:1], "run_dir=unfinished", MISTAKES_SIGNAL=stop)
    job(str(root / "train.py"), "-m", *SHORT, "seed=0,1", "run_dir=sweep")
    job("-c", "import cnnzoo, torch; torch.save(cnnzoo.create_model('resnet20').state_dict(), 'resnet20.pth')")
    old = "{'cnnzoo': {'model': {'name': 'lenet5'}}, 'state_dict': {'net.weight': torch.zeros(1)}}"
    job("-c", f"import torch; torch.save({old}, 'old.ckpt')")
    missing = [name for name in (*RUNS, "resnet20.pth", "old.ckpt") if not (directory / name).exists()]
    assert not missing, f"{missing} could not be created"


def enter_places(places: Path, cwd: Path, typed: str) -> None:
    """Copy each place that `typed` names into the new directory `cwd`: a case can change only its own copy."""
    cwd.mkdir(parents=True)
    for place in places.iterdir():
        name = place.stem if place.suffix == ".py" else place.name  # a module is imported without its suffix
        if not re.search(rf"(?<!\w){re.escape(name)}(?!\w)", typed):
            continue
        (shutil.copytree if place.is_dir() else shutil.copy)(place, cwd / place.name)


def _write_images(folder: Path, color: tuple[int, int, int], count: int) -> None:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for index in range(count):
        pixels = np.clip(np.array(color) + rng.integers(-30, 30, (36, 40, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")


def _write_listings(directory: Path) -> None:
    """Write `rows.csv`, `shards` and `tables`, which list or hold the images of `flowers`, and forms with mistakes."""
    images = [(f"{label}/{index}.png", label) for index in range(40) for label in ("red", "blue")]
    lines = [f"{image},{label},train" for image, label in images]
    (directory / "rows.csv").write_text("\n".join(["file,label,split", *lines]))
    (directory / "missing.csv").write_text(
        "\n".join(["image,label", "red/x.png,red", *(",".join(row) for row in images)])
    )
    (directory / "measures.csv").write_text(
        "\n".join(["image,label", *(f"{image},0.{n}" for n, (image, _) in enumerate(images))])
    )
    (directory / "split.csv").write_text("\n".join(["image,label,split", *lines, "red/0.png,red,vall"]))
    for name in ("shards", "cut", "unlabeled"):
        (directory / name).mkdir()
        with tarfile.open(directory / name / "a.tar", "w") as tar:
            for number, (image, label) in enumerate(images):
                tar.add(directory / "flowers" / image, f"{number}.png")
                (directory / "empty.cls").write_text(label)
                if name != "unlabeled" or number != 3:
                    tar.add(directory / "empty.cls", f"{number}.cls")
    (directory / "empty.cls").unlink()
    data = (directory / "cut/a.tar").read_bytes()
    (directory / "cut/a.tar").write_bytes(data[: len(data) // 2])
    with suppress(ImportError):
        import pyarrow as pa
        import pyarrow.parquet as pq

        files = [(directory / "flowers" / image).read_bytes() for image, _ in images]
        labels = [label for _, label in images]
        for name, columns in {"tables": {"image": files, "label": labels}, "numbers": {"label": labels}}.items():
            (directory / name).mkdir()
            pq.write_table(pa.table(columns), directory / name / "a.parquet")


class _Unsafe:
    """An object that runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("touch unpickled",)
