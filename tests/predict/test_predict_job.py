"""The job `predict`: what it prints and writes, and its exit code."""

import csv
import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers import ROOT
from tests.predict.test_predictor import BAD, GOOD

BAD_FILES = (*(set(BAD) - {"missing.jpg", "folder.jpg"}), "link.png")
"""The files of the directory `photos` that cannot be read."""


@pytest.fixture
def predict(fork, run_dir, tmp_path):
    """`predict("images=...")` runs the job on the run `run_dir`, in `tmp_path`."""

    def run(*overrides, **options):
        return fork(f"run={run_dir}", "device=cpu", *overrides, job="predict", cwd=tmp_path, **options)

    return run


def test_table_has_all_images_in_order(predict, photos):
    process = predict(f"images={photos}")
    assert process.returncode == 0
    header, *lines = process.stdout.splitlines()
    assert re.fullmatch(r"image +class +prob\. +next classes", header)
    assert [line.removeprefix(f"{photos}/").split("  ")[0] for line in lines] == sorted([*GOOD, *BAD_FILES])
    assert sum("cannot be read: " in line for line in lines) == len(BAD_FILES)
    (line,) = (line for line in lines if "more é/alpha.webp" in line)
    assert re.search(
        r"webp +(cat|dog|guinea pig|horse) +\d+\.\d%  ((cat|dog|guinea pig|horse) \d+\.\d%(, |$)){3}", line
    )
    summary = rf"10 images in \d+\.\d s \([\d,.]+ images/s\); {len(BAD_FILES)} files could not be read\n"
    assert re.fullmatch(summary, process.stderr)


def test_json_on_stdout_is_nothing_but_json(predict, photos):
    process = predict(f"images={photos}", "format=json", "topk=2", "batch_size=3")
    rows = list(map(json.loads, process.stdout.splitlines()))
    assert len(rows) == len(GOOD) + len(BAD_FILES)
    for row in rows:
        name = row["path"].removeprefix(f"{photos}/")
        assert ("error" in row) == (name in BAD_FILES)
        assert len(row.get("predictions", "12")) == 2


def test_out_is_written_once(predict, photos, tmp_path):
    assert predict(f"images={photos}/*.jpg", "out=a b.csv").stdout == ""
    rows = list(csv.DictReader((tmp_path / "a b.csv").open()))
    assert [bool(row["error"]) for row in rows] == [True, False, False, False]
    process = predict(f"images={photos}", "out=a b.csv")
    assert process.returncode == 1
    assert process.stderr == "error: out=a b.csv: this file exists already; type another name\n"


def test_exit_code_is_1_if_no_image_can_be_read(predict, photos):
    process = predict(f"images={photos}/broken.jpg")
    assert process.returncode == 1
    assert process.stdout.splitlines()[1].endswith("cannot be read: Premature end of JPEG file")
    assert process.stderr == f"error: images={photos}/broken.jpg: cannot be read: Premature end of JPEG file\n"
    process = predict(f"images={photos}/[be]*.[jp]*g")
    assert process.stderr == f"error: images={photos}/[be]*.[jp]*g: none of the 2 files could be read\n"


def test_explain_writes_pictures(predict, photos, tmp_path):
    process = predict(f"images={photos}", "explain=true", "out=pictures", "explain_limit=2", "layer=c3")
    assert process.returncode == 0, process.stderr
    pictures = {path.name: np.asarray(Image.open(path).convert("RGB")) for path in (tmp_path / "pictures").iterdir()}
    assert sorted(pictures) == ["1_16bit.png", "2_cmyk.png", "feature_maps_c3.png", "filters.png"]
    assert "Wrote 4 pictures to pictures" in process.stderr
    assert "Only the first 2 images of 10 are drawn; explain_limit=N draws more" in process.stderr
    assert pictures["feature_maps_c3.png"].shape[:2] == (4 * (192 + 14), 4 * 192)  # 16 maps
    gray = pictures["1_16bit.png"].std(axis=2)
    assert gray[30:400, 10:390].max() < 1  # a gray image has colors only in its map, on the right
    assert gray[30:400, 410:790].mean() > 1


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("images=PHOTOS", "out=nowhere/x.csv"), "error: out=nowhere/x.csv cannot be written: there is no directory"),
        (("images=PHOTOS", "explain=true", "out=x/y", "layer=c8"), "error: unknown layer 'c8': did you mean c"),
    ],
)
def test_mistake_is_one_line_and_leaves_nothing(predict, photos, tmp_path, overrides, message):
    process = predict(*(override.replace("PHOTOS", str(photos)) for override in overrides))
    assert process.returncode == 1
    assert process.stdout == ""
    assert process.stderr.startswith(message)
    assert process.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_multilabel_network_writes_its_classes(predict, photos, run_dir, tmp_path):
    checkpoint = torch.load(run_dir / "checkpoints/best.ckpt", weights_only=True)
    checkpoint["cnnzoo"]["thresholds"] = [0.0, 1.1, 0.0, 1.1]
    torch.save(checkpoint, tmp_path / "net.ckpt")
    process = predict("run=net.ckpt", f"images={photos}/color.jpg", "format=csv")
    row = next(csv.DictReader(process.stdout.splitlines()))
    assert sorted(row["classes"].split(";")) == ["cat", "guinea pig"]
    assert len(row["probabilities"].split(";")) == 2
    process = predict("run=net.ckpt", f"images={photos}/color.jpg", "topk=2")
    assert process.stderr.startswith("error: topk=2: net.ckpt is a multi-label network")


@pytest.mark.long
def test_closed_pipe_ends_quietly(run_dir, photos):
    """The job reads paths from a pipe, and the reader of its results ends after the first line."""
    paths = f"{photos / 'color.jpg'}\n" * 200
    script = f"{sys.executable} {ROOT / 'predict.py'} run={run_dir} images=- device=cpu batch_size=1 format=json"
    process = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {script} | head -1"], input=paths, capture_output=True, text=True, timeout=120
    )
    assert process.returncode == 141
    assert json.loads(process.stdout)["path"] == str(photos / "color.jpg")
    assert process.stderr == ""
