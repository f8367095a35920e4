"""The job `benchmark.py` with the real configuration on little data: output, CSV file and error messages."""

import csv
import json
import re

import hydra
import numpy as np
import pytest
from PIL import Image

from cnnzoo import cli
from cnnzoo.benchmark import data_benchmark, show
from cnnzoo.data.loaders.dali_loader import dali_problem
from cnnzoo.errors import UserError
from cnnzoo.jobs import benchmark

QUICK = ("model=lenet", "trainer=cpu", "seconds=0.01", "rounds=1", "data.batch_size=4", "finalists=1")


@pytest.fixture
def run_benchmark(capsys, monkeypatch, caplog):
    """`run_benchmark("data=digits", ...)` runs the job in this process with two cores; returns its output and log."""
    monkeypatch.setattr(data_benchmark, "usable_cores", lambda: 2)

    def run(*overrides: str, width: int = 120) -> str:
        monkeypatch.setenv("COLUMNS", str(width))
        prepared, _ = cli.prepare([*QUICK, *overrides], job="benchmark", help_text=benchmark.__doc__)
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
    """A folder with two classes of twenty JPEGs of random pixels, a few kB each."""
    rng = np.random.default_rng(0)
    for name in "ab":
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(20):
            pixels = rng.integers(0, 256, (48, 64, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{number}.jpg")
    return tmp_path / "photos"


def table_value(output: str, name: str) -> str:
    """The value in the line of the final table that starts with `name`."""
    (value,) = re.findall(rf"^{name} +(.*)$", output, re.MULTILINE)
    return value


def test_benchmark_files_measures_all_settings(run_benchmark, photos, tmp_path):
    path = tmp_path / "my settings, all.csv"
    output = run_benchmark("data=folder", f"data.root={photos}", "images=9", f"csv={path}", "rounds=2", width=80)
    assert table_value(output, "data") == "folder: 28 training images, 9 of them measured"
    assert "RAM and fill time are for all 32 training and validation images" in " ".join(output.split())
    rows = list(csv.DictReader(path.open()))
    dali = [row for row in rows if row["loader"] == "dali"]
    assert len(rows) - len(dali) == 3 * 5
    assert len(dali) == (0 if dali_problem() else 3 * 2)
    assert all(float(row["loader_images_per_second"]) > 0 for row in rows)
    (chosen,) = [row for row in rows if row["chosen"] == "True"]
    kind = f"loader.kind={chosen['kind']} " if chosen["kind"] else ""
    loader = f"loader={chosen['loader']} {kind}loader.workers={chosen['workers']}"
    assert table_value(output, "settings") == f"data.cache.mode={chosen['cache']} {loader}"
    finalists = [row for row in rows if row["training_images_per_second"]]
    assert 1 <= len(finalists) <= 2
    assert chosen in finalists
    memory = {row["cache"]: int(row["memory_bytes"]) for row in rows}
    assert memory["none"] == 0
    assert memory["decoded"] == pytest.approx(32 * 48 * 64 * 3, abs=9)
    files = [file.stat().st_size for file in photos.rglob("*.jpg")]
    assert 32 * min(files) <= memory["encoded"] <= 32 * max(files)
    table = output[output.index("cache  ") : output.index("* marks")].splitlines()
    assert max(map(len, table)) <= 80
    assert len([line for line in table if "*" in line]) == 1
    assert table_value(output, "limit").startswith(("the data: ", "the network: "))
    assert sorted(tmp_path.iterdir()) == [path, photos]


def test_json_has_the_rows_of_the_table_and_a_chart(run_benchmark, tmp_path):
    path = tmp_path / "data.json"
    run_benchmark("data=digits", "loader.workers=0", f"json={path}")
    contents = json.loads(path.read_text())
    assert [(row["workers"], row["chosen"]) for row in contents["results"]] == [(0, True)]
    assert contents["settings"]["model"] == "lenet5"
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_cache_larger_than_budget_is_not_measured(run_benchmark, photos, tmp_path, monkeypatch):
    # The budget is half of this. All pixels take 294,912 bytes, the files about a third of that.
    monkeypatch.setattr(data_benchmark.available_memory, "available_bytes", lambda: 400_000)
    path = tmp_path / "settings.csv"
    output = run_benchmark("data=folder", f"data.root={photos}", "images=9", f"csv={path}", "loader.workers=0")
    assert re.search(r"^decoded +295 kB +\d.* s +does not fit", output, re.MULTILINE)
    assert "cache decoded: not measured, because the whole data set does not fit in the budget" in output
    rows = {row["cache"]: row for row in csv.DictReader(path.open())}
    assert [row["measured"] for row in rows.values()] == ["True", "True", "False"]
    assert rows["decoded"]["loader_images_per_second"] == ""
    with pytest.raises(UserError, match=r"data\.cache\.mode=decoded: the whole data set does not fit in the 200 kB"):
        run_benchmark("data=folder", f"data.root={photos}", "images=9", "data.cache.mode=decoded")


def test_no_cache_drops_page_cache_if_set_exceeds_memory(run_benchmark, photos, monkeypatch):
    dropped = []
    monkeypatch.setattr(data_benchmark, "drop_page_cache", lambda split: dropped.append(len(split)))
    overrides = ("data=folder", f"data.root={photos}", "images=9", "data.cache.mode=none", "loader.workers=0")
    run_benchmark(*overrides)
    assert not dropped
    monkeypatch.setattr(data_benchmark.available_memory, "available_bytes", lambda: 1000)
    run_benchmark(*overrides)
    assert len(dropped) > 2
    assert set(dropped) == {9}


def test_resize_also_measures_resized_caches(run_benchmark, photos):
    output = run_benchmark("data=folder", f"data.root={photos}", "data.cache.resize=24", "loader.workers=0")
    for cache in ("none", "encoded", "encoded at 24", "decoded", "decoded at 24"):
        assert re.search(rf"^{cache} .*main process", output, re.MULTILINE)
    assert table_value(output, "data") == "folder: 28 training images"


def test_loader_override_measures_only_that_loader(run_benchmark, photos, tmp_path):
    for name in ("torch", "dali"):
        if name == "dali" and dali_problem():
            continue
        path = tmp_path / f"{name}.csv"
        overrides = (f"loader={name}", "loader.workers=1", "images=9", "data.cache.mode=encoded", f"csv={path}")
        run_benchmark("data=folder", f"data.root={photos}", *overrides)
        assert {row["loader"] for row in csv.DictReader(path.open())} == {name}


def test_benchmark_in_memory_set_has_no_cache(run_benchmark):
    output = run_benchmark("data=digits", "loader.kind=threads")
    assert len(re.findall(r"^(?:not needed +- +-)? +(?:main process|\d threads?)", output, re.MULTILINE)) == 3
    assert "RAM and fill time" not in output
    assert table_value(output, "settings").startswith("loader=torch loader.")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["job=network"], "unknown job 'network': expected one of: data"),
        (["job=dat"], "unknown job 'dat': did you mean data?"),
        (["seconds=0"], "seconds=0: expected a number > 0 and <= 3600"),
        (["seconds=long"], "seconds=long: expected a number"),
        (["rounds=0"], "rounds=0: expected a whole number >= 1"),
        (["images=1.5"], "images=1.5: expected a whole number >= 1"),
        (["finalists=-1"], "finalists=-1: expected a whole number >= 1"),
        (["data.cache.persist=kept"], "data.cache.persist=kept: a benchmark writes no cache; leave it out"),
        (["csv=/no/such/place.csv"], "csv=/no/such/place.csv cannot be written: there is no directory /no/such"),
        (["data.batch_size=5000"], "data.batch_size=5000: more than the 1293 training images"),
        (["data=folder"], "data=folder: expected data.root="),
        (["trainer.devices=2"], "trainer.devices=2 and trainer.num_nodes=1: the benchmark measures one device"),
        (["loader.kind=thread"], "loader.kind=thread: expected auto, threads or processes"),
        (["loader.workers=-1"], "loader.workers=-1: expected a whole number >= 0 or auto"),
        (["trainer.max_steps=2"], "training ended after 2 steps"),
        (["scheduler=step"], "unknown key 'scheduler'"),
        (["data.image_size=20"], "data.image_size=20: lenet5 takes exactly 32 pixels"),
        (["second=1"], "unknown key 'second': did you mean seconds?"),
    ],
)
def test_invalid_override_is_a_one_line_error(overrides, message, run_benchmark):
    with pytest.raises(UserError) as error:
        run_benchmark(*overrides)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_images_below_two_batches_are_mentioned(run_benchmark, photos):
    quick = ("images=3", "data.cache.mode=none", "loader=torch", "loader.workers=0")
    output = run_benchmark("data=folder", f"data.root={photos}", *quick)
    expected = "folder: 28 training images, 8 of them measured (images=3 are fewer than two batches)"
    assert table_value(output, "data") == expected


def test_unwritable_csv_is_an_error_before_measuring(run_benchmark, tmp_path, monkeypatch):
    monkeypatch.setattr(show, "run_data_benchmark", None)
    with pytest.raises(UserError, match=rf"^csv={tmp_path} cannot be written: Is a directory$"):
        run_benchmark(f"csv={tmp_path}")


@pytest.mark.long
def test_config_composes_for_every_family():
    for family in cli.ConfigTree("train").choices("model"):
        target = ["model.target=mynet.TinyNet"] if family == "custom" else []
        overrides, _ = cli.prepare([f"model={family}", *target, "trainer=gpu"], job="benchmark", help_text="")
        with hydra.initialize_config_dir(str(cli.CONF), version_base="1.3"):
            cfg = hydra.compose("benchmark", overrides=overrides)
        assert (cfg.model.family, cfg.trainer.accelerator, cfg.trainer.max_epochs) == (family, "gpu", -1)


def test_help_names_only_existing_keys(capsys):
    with pytest.raises(SystemExit) as error:
        cli.prepare(["--help"], job="benchmark", help_text=benchmark.__doc__)
    assert error.value.code == 0
    output = capsys.readouterr().out
    assert output.startswith("Measure, on your own data and machine")
    assert max(map(len, output.splitlines())) <= 120
    keys = set(re.findall(r"[\w.]+(?==)", benchmark.__doc__)) - {"HYDRA_FULL_ERROR", "model", "data", "trainer"}
    typed = [f"{key}=null" for key in sorted(keys - {"model.name"})]
    cli.prepare([*typed, "model.name=resnet34"], job="benchmark", help_text="")


def test_script_leaves_no_files(tmp_path, fork):
    process = fork(*QUICK, "loader.workers=1", job="benchmark", cwd=tmp_path)
    assert (process.returncode, process.stderr) == (0, "")
    assert "image size 16 -> 32: lenet5 takes exactly 32 pixels" in process.stdout
    assert re.search(
        r"^settings +loader=torch loader\.kind=(threads|processes) loader\.workers=1$", process.stdout, re.MULTILINE
    )
    assert list(tmp_path.iterdir()) == []
