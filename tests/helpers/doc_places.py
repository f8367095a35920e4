"""The files and directories that the commands and the code of the documentation name."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import hydra
from omegaconf import OmegaConf

from cnnzoo import cli
from cnnzoo.data.datasets.folder import ImageFolder
from tests.helpers import ROOT
from tests.helpers.arrays import make_array, save_array
from tests.helpers.docs import named_files
from tests.helpers.images import save_image
from tests.helpers.sources import write_csv, write_shards, write_table

RUN_OVERRIDES = ("model=lenet", "trainer.max_epochs=1", "trainer.limit_train_batches=2", "trainer=cpu")
"""Those of the run that stands in for every run that the documentation names."""
NUMBER_TAGS = ("even", "prime;big", "")
LATEST = "runs/digits/lenet5/DATE"
_RUN_PATH = re.compile(r"(?<![\w/])runs/[\w./-]*[\w.](?![\w*/])")


def create_files(home: Path) -> None:
    """Create in `home`, which `~` stands for, the images and the configuration directory that the pages name."""
    folders = {"flowers/daisy": 45, "flowers/rose": 45, "more/0": 3, "more/7": 3, "photos/cats": 3}
    for folder, count in folders.items():
        for n in range(count):
            save_image(home / folder / f"{n}.jpg")
    flowers = ImageFolder(str(home / "flowers"))
    write_csv(flowers, home / "flowers/labels.csv")
    write_shards(flowers, home / "flowers_shards", images_per_shard=18)  # five shards
    write_table(flowers, home / "flowers_parquet")
    for n in range(20):
        for folder in ("wheat", "maize"):
            save_array(home / "fields" / folder / f"{n}.tif", make_array(f"{folder} {n}", 32, 32, 5))
    for n in range(90):
        save_image(home / f"panoramas/{'inside' if n % 2 else 'outside'}/{n}.jpg", 24, 96)
        save_image(home / f"numbers/{n}.png")
    rows = [
        "image,even,prime,big,tags",
        *(f"numbers/{n}.png,{n % 2},{n % 3 % 2},{n // 45},{NUMBER_TAGS[n % 3]}" for n in range(90)),
    ]
    (home / "labels.csv").write_text("\n".join(rows))
    for name in ("photo", "cat", "a", "b"):
        save_image(home / f"{name}.jpg")
    for name in ("digit", "image", "digits/a", "digits/b", "photos/c", "DIR/d"):
        save_image(home / f"{name}.png")
    for page in ROOT.glob("docs/extending/*.md"):
        for name, text in named_files(page).items():
            (home / name).parent.mkdir(parents=True, exist_ok=True)
            (home / name).write_text(text)
    recipe = home / "DIR/experiment/mine.yaml"
    recipe.parent.mkdir()
    recipe.write_text("# @package _global_\n# Mine\ndefaults:\n  - override /model: lenet\nseed: 5\n")


def create_unread_run(run: Path) -> None:
    """Create a run whose command line can be resumed, and whose checkpoint is empty."""
    for part in (".hydra", "checkpoints"):
        (run / part).mkdir(parents=True)
    with hydra.initialize_config_dir(str(cli.CONF), version_base="1.3"):
        cfg = hydra.compose("train", overrides=list(RUN_OVERRIDES))
    (run / ".hydra/overrides.yaml").write_text(OmegaConf.to_yaml(list(RUN_OVERRIDES)))
    (run / ".hydra/config.yaml").write_text(OmegaConf.to_yaml(cfg))
    (run / "checkpoints/last.ckpt").touch()


def enter_places(home: Path, run: Path, cwd: Path, text: str) -> None:
    """Make a new current directory for a command or code: the files of `home`, and `run` wherever `text` has a run.

    A placeholder such as `runs/digits/...` is a directory of this name. Where a path has "multilabel", it is the run of
    this name beside `run`, if there is one.
    """
    cwd.mkdir(parents=True)
    for file in home.iterdir():
        if file.name not in ("DIR", "digits") or re.search(rf"(--config-dir |images=){file.name}", text):
            (cwd / file.name).symlink_to(file)
    (cwd / "photos").unlink()
    shutil.copytree(home / "photos", cwd / "photos")  # `find` does not follow a link
    for path in {LATEST, *_RUN_PATH.findall(text)}:
        where = cwd / re.sub(r"/checkpoints/.*", "", path)
        multilabel = run.with_name("multilabel")
        if not where.exists():
            shutil.copytree(multilabel if "multilabel" in path and multilabel.exists() else run, where)
