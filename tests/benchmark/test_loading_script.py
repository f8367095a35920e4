"""`benchmarks/loading.py`: without the environments of the peers, it measures all that is installed."""

import importlib
import json
import sys

import pytest

from tests.helpers import ROOT
from tests.helpers.images import save_image

CACHES = ("none", "encoded", "encoded at 256", "decoded", "decoded at 256")


@pytest.fixture
def loading(tmp_path, monkeypatch):
    """The module, with few small images, without peers, and without dropping the page cache of the machine."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    module = importlib.import_module("loading")
    monkeypatch.setattr(module, "SMALL_IMAGES", 1024)
    monkeypatch.setattr(module, "DROP_CACHES", tmp_path / "missing")
    monkeypatch.setattr(sys.modules["peers.loaders"], "VENVS", tmp_path)
    return module


@pytest.mark.long
def test_loading_script_without_peers_has_every_own_row(loading, tmp_path, monkeypatch, capsys):
    for number in range(8):
        save_image(tmp_path / f"images/{number}.jpg", 40, 48)
    results = tmp_path / "loading.json"
    options = "--workers 1 --batch 4 --rounds 1 --seconds 0"
    monkeypatch.setattr(sys, "argv", ["loading.py", str(tmp_path / "images"), *options.split(), "--json", str(results)])
    loading.main()
    values = json.loads(results.read_text())
    tables = {table["title"]: {row["name"] for row in table["rows"]} for table in values["tables"]}
    kinds = ("threads", "processes")
    assert tables["8 photographs, 1 workers"] >= {f"ours, cache {c}, 1 {kind}" for c in CACHES for kind in kinds}
    assert tables["1,024 images of 32 x 32"] >= {
        "ours, in the training process",
        "ours, 1 threads",
        "ours, 1 processes",
    }
    assert all(row["images_per_second"] > 0 for table in values["tables"] for row in table["rows"])
    assert {"date", "processor", "cores", "memory_bytes", "packages"} <= values["machine"].keys()
    assert values["peers"] == {}
    assert capsys.readouterr().out.count("is left out: run benchmarks/peers/setup.sh") == 2  # FFCV and SPDL
