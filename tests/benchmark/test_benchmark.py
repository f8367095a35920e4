"""The job `benchmark.py`: the real configuration, shrunk; what it prints and writes, what it refuses."""

import csv
import os
import re
import subprocess
import sys

import hydra
import numpy as np
import pytest
from PIL import Image

import benchmark
from cnnzoo import cli
from cnnzoo.benchmark import data_benchmark
from cnnzoo.data.loaders.dali_loader import dali_problem
from cnnzoo.errors import UserError
from tests.helpers import ROOT

QUICK = ("model=lenet", "trainer=cpu", "seconds=0.01", "rounds=1", "data.batch_size=4", "finalists=1")


@pytest.fixture
def show(capsys, monkeypatch, caplog):
    """`show("data=digits", ...)`: what the job prints and logs, in this process; there are two cores."""
    monkeypatch.setattr(data_benchmark, "usable_cores", lambda: 2)

    def run(*words: str, width: int = 120) -> str:
        monkeypatch.setenv("COLUMNS", str(width))
        prepared, _ = cli.prepare([*QUICK, *words], config="benchmark", help_text=benchmark.__doc__)
        with hydra.initialize_config_dir(str(cli.CONF), version_base="1.3"):
            cfg = hydra.compose("benchmark", overrides=prepared)
        capsys.readouterr()
        caplog.clear()
        with caplog.at_level("INFO"):
            benchmark.main(cfg)
        return capsys.readouterr().out + "\n" + "\n".join(record.getMessage() for record in caplog.records)

    return run


@pytest.fixture
def photos(tmp_path):
    """Two classes of twenty noisy JPEGs, some kB each."""
    chance = np.random.default_rng(0)
    for name in "ab":
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(20):
            pixels = chance.integers(0, 256, (48, 64, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{number}.jpg")
    return tmp_path / "photos"


def said(page: str, name: str) -> str:
    """What the line of that name says."""
    (found,) = re.findall(rf"^{name} +(.*)$", page, re.MULTILINE)
    return found


def test_files_are_measured_in_every_way_and_the_table_is_written(show, photos, tmp_path):
    path = tmp_path / "my ways, all.csv"
    page = show("data=folder", f"data.root={photos}", "images=9", f"csv={path}", "rounds=2", width=80)
    assert said(page, "data") == "folder: 28 training images, 9 of them measured"
    assert "RAM and filling are of all 32 images" in page
    rows = list(csv.DictReader(path.open()))
    dali = [row for row in rows if row["loader"] == "dali"]
    assert len(rows) - len(dali) == 3 * 5
    assert len(dali) == (0 if dali_problem() else 3 * 2)
    assert all(float(row["loader_images_per_second"]) > 0 for row in rows)
    (chosen,) = [row for row in rows if row["chosen"] == "True"]
    crew = f"loader.kind={chosen['kind']} " if chosen["kind"] else ""
    crew = f"loader={chosen['loader']} {crew}loader.workers={chosen['workers']}"
    assert said(page, "settings") == f"data.cache.mode={chosen['cache']} {crew}"
    tried = [row for row in rows if row["training_images_per_second"]]
    assert 1 <= len(tried) <= 2
    assert chosen in tried
    memory = {row["cache"]: int(row["memory_bytes"]) for row in rows}
    assert memory["none"] == 0
    assert memory["decoded"] == pytest.approx(32 * 48 * 64 * 3, abs=9)
    files = [file.stat().st_size for file in photos.rglob("*.jpg")]
    assert 32 * min(files) <= memory["encoded"] <= 32 * max(files)
    table = page[page.index("cache  ") : page.index("* is what")].splitlines()
    assert max(map(len, table)) <= 80
    assert len([line for line in table if "*" in line]) == 1
    assert said(page, "limit").startswith(("the data: ", "the network: "))
    assert sorted(tmp_path.iterdir()) == [path, photos]


def test_a_cache_that_the_whole_set_does_not_fit_is_not_measured(show, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(
        data_benchmark.available_memory, "available_bytes", lambda: 400_000
    )  # all pixels take 294,912, the files a third
    path = tmp_path / "ways.csv"
    page = show("data=folder", f"data.root={photos}", "images=9", f"csv={path}", "loader.workers=0")
    assert re.search(r"^decoded +295 kB +\d.* s +does not fit", page, re.MULTILINE)
    assert "cache decoded: the whole set does not fit" in page
    rows = {row["cache"]: row for row in csv.DictReader(path.open())}
    assert [row["measured"] for row in rows.values()] == ["True", "True", "False"]
    assert rows["decoded"]["loader_images_per_second"] == ""
    with pytest.raises(UserError, match=r"data\.cache\.mode=decoded: the whole set does not fit in the 200 kB"):
        show("data=folder", f"data.root={photos}", "images=9", "data.cache.mode=decoded")


def test_without_a_cache_files_larger_than_the_memory_come_from_the_disk(show, photos, monkeypatch):
    forgotten = []
    monkeypatch.setattr(data_benchmark, "drop_page_cache", lambda split: forgotten.append(len(split)))
    words = ("data=folder", f"data.root={photos}", "images=9", "data.cache.mode=none", "loader.workers=0")
    show(*words)
    assert not forgotten
    monkeypatch.setattr(data_benchmark.available_memory, "available_bytes", lambda: 1000)
    show(*words)
    assert len(forgotten) > 2
    assert set(forgotten) == {9}


def test_smaller_images_are_measured_where_they_are_asked_for(show, photos):
    page = show("data=folder", f"data.root={photos}", "data.cache.resize=24", "loader.workers=0")
    for cache in ("none", "encoded", "encoded at 24", "decoded", "decoded at 24"):
        assert re.search(rf"^{cache} .*training itself", page, re.MULTILINE)
    assert said(page, "data") == "folder: 28 training images"


def test_a_typed_loader_alone_is_measured(show, photos, tmp_path):
    for name in ("torch", "dali"):
        if name == "dali" and dali_problem():
            continue
        path = tmp_path / f"{name}.csv"
        words = (f"loader={name}", "loader.workers=1", "images=9", "data.cache.mode=encoded", f"csv={path}")
        show("data=folder", f"data.root={photos}", *words)
        assert {row["loader"] for row in csv.DictReader(path.open())} == {name}


def test_sets_in_memory(show):
    page = show("data=digits", "loader.kind=threads")
    assert len(re.findall(r"^(?:not needed +- +-)? +(?:training itself|\d threads?)", page, re.MULTILINE)) == 3
    assert "RAM and filling" not in page
    assert said(page, "settings").startswith("loader=torch loader.")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["job=network"], "unknown job 'network': there are data"),
        (["job=dat"], "unknown job 'dat': did you mean data?"),
        (["seconds=0"], "seconds=0: of each measurement, a number above 0"),
        (["seconds=long"], "seconds=long: of each measurement"),
        (["rounds=0"], "rounds=0: a whole number of 1 or more"),
        (["images=1.5"], "images=1.5: a whole number of 1 or more"),
        (["finalists=-1"], "finalists=-1: a whole number of 1 or more"),
        (["data.cache.persist=kept"], "data.cache.persist=kept: a measurement keeps nothing; leave it out"),
        (["csv=/no/such/place.csv"], "csv=/no/such/place.csv cannot be written: there is no directory /no/such"),
        (["data.batch_size=5000"], "data.batch_size=5000: more than the 1293 training images"),
        (["data=folder"], "data=folder needs data.root="),
        (["trainer.devices=2"], "trainer.devices=2 and trainer.num_nodes=1: one device is measured"),
        (["loader.kind=thread"], "loader.kind=thread: it can be auto, threads, processes"),
        (["loader.workers=-1"], "loader.workers=-1: it can be auto, or a number"),
        (["trainer.max_steps=2"], "training ended after 2 steps"),
        (["scheduler=step"], "unknown key 'scheduler'"),
        (["data.image_size=20"], "data.image_size=20: lenet5 takes exactly 32 pixels"),
        (["second=1"], "unknown key 'second': did you mean seconds?"),
    ],
)
def test_bad_words_are_one_line(words, says, show):
    with pytest.raises(UserError) as error:
        show(*words)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_every_family_composes():
    for family in cli.choices("model"):
        words, _ = cli.prepare([f"model={family}", "trainer=gpu"], config="benchmark", help_text="")
        with hydra.initialize_config_dir(str(cli.CONF), version_base="1.3"):
            cfg = hydra.compose("benchmark", overrides=words)
        assert (cfg.model.family, cfg.trainer.precision, cfg.trainer.max_epochs) == (family, "bf16-mixed", -1)


def test_help_is_a_page_whose_keys_exist(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.prepare(["--help"], config="benchmark", help_text=benchmark.__doc__)
    assert stop.value.code == 0
    page = capsys.readouterr().out
    assert page.startswith("Measure, on your own data and machine")
    assert max(map(len, page.splitlines())) <= 120
    keys = set(re.findall(r"[\w.]+(?==)", benchmark.__doc__)) - {"HYDRA_FULL_ERROR", "model", "data", "trainer"}
    cli.prepare([f"{key}=null" for key in sorted(keys)], config="benchmark", help_text="")


def test_in_the_shell_it_leaves_nothing_behind(tmp_path):
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmark.py"), *QUICK, "loader.workers=1"],
        cwd=tmp_path,
        env={**os.environ, "COLUMNS": "100"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "image size 16 -> 32: lenet5 takes exactly 32 pixels" in done.stdout
    assert re.search(
        r"^settings +loader=torch loader\.kind=(threads|processes) loader\.workers=1$", done.stdout, re.MULTILINE
    )
    assert list(tmp_path.iterdir()) == []
