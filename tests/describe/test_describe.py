"""The job `describe.py`: its counts against the zoo's facts, what it prints and writes, what it refuses."""

import csv
import os
import re
import subprocess
import sys

import hydra
import pytest

import describe
from cnnzoo import cli
from cnnzoo.describe.blocks import BLOCKS
from cnnzoo.describe.show import dataset_and_crops, zoo_rows
from cnnzoo.describe.tables import format_count
from cnnzoo.errors import UserError
from cnnzoo.models import info, list_models
from tests.helpers import ROOT


@pytest.fixture
def show(capsys, monkeypatch):
    """`show("model=alexnet", ...)`: what the job prints, in this process, on a terminal 120 wide."""

    def run(*words: str, width: int = 120) -> str:
        monkeypatch.setenv("COLUMNS", str(width))
        prepared, _ = cli.prepare(list(words), config="describe", help_text=describe.__doc__)
        with hydra.initialize_config_dir(str(cli.CONF), version_base="1.3"):
            cfg = hydra.compose("describe", overrides=prepared)
        capsys.readouterr()
        describe.main(cfg)
        return capsys.readouterr().out

    return run


@pytest.fixture(scope="module")
def zoo():
    return zoo_rows()


def row(page: str, name: str) -> list[str]:
    """The words of the only line that starts with `name`."""
    (line,) = [line for line in page.splitlines() if line.split()[:1] == [name]]
    return line.split()


def test_alexnet_as_the_lectures_draw_it(show):
    page = show("model=alexnet", "model.name=alexnet_paper")
    assert row(page, "input") == ["input", "3x227x227", "603.9"]
    conv1 = ["features.0", "conv", "11x11/4,", "96", "96x55x55", "34,944", "105,415,200", "1,134.4"]
    assert row(page, "features.0") == conv1
    assert row(page, "features.1") == ["features.1", "relu", "96x55x55"]  # in place: nothing new
    assert row(page, "features.4")[:6] == ["features.4", "conv", "5x5", "p2", "g2,", "256"]
    assert row(page, "flatten") == ["flatten", "flatten", "9216"]
    assert row(page, "classifier.0") == ["classifier.0", "fc,", "4096", "4096", "37,752,832", "37,748,736", "16.0"]
    total = row(page, "total")
    assert total[:4] == ["total", "1000", "60,965,224", "724,406,816"]
    kib = [line.split()[-1] for line in page.splitlines() if re.match(r"(input|features|avgpool|classifier)\b", line)]
    assert float(total[4].replace(",", "")) == pytest.approx(
        sum(float(k.replace(",", "")) for k in kib if re.fullmatch(r"[\d,]+\.\d", k)), abs=1
    )


def test_levels_open_and_close(show):
    page = show("model=resnet", "model.name=resnet50", "depth=1")
    assert row(page, "layer3")[:6] == ["layer3", "6", "x", "Bottleneck", "1024x14x14", "7,098,368"]
    page = show("model=resnet", "model.name=resnet50")
    assert row(page, "layer3.5")[:3] == ["layer3.5", "Bottleneck", "1024x14x14"]
    page = show("model=resnet", "model.name=resnet50", "depth=all")
    assert row(page, "layer1.0.downsample.0")[1:5] == ["conv", "1x1,", "256", "256x56x56"]
    assert row(page, "layer3.5.add") == ["layer3.5.add", "add", "1024x14x14"]  # in place: nothing new
    assert page == show("model=resnet", "model.name=resnet50", "depth=99")
    assert "conv 7x7/2 p3, 64 + batch norm + relu" in show("model=googlenet")


def test_auxiliary_heads_are_named_and_not_counted(show):
    page = show("model=googlenet")
    assert row(page, "total")[2] == "6,624,904"
    assert "Not in the table: aux1, aux2 with 6,379,984 parameters, in use in training only." in page
    assert "Not in the table" not in show("model=resnet")


def test_the_input_and_the_classes_can_be_others(show):
    page = show("model=resnet", "image_size=32", "channels=1", "model.num_classes=7")
    assert "resnet18 (small stem)" in page
    assert row(page, "input")[1] == "1x32x32"
    assert row(page, "total")[1:3] == ["7", "11,171,271"]
    assert row(show("model=resnet", "model.stem=small"), "input")[1] == "3x32x32"
    assert "resnet18 (native stem)" in show("model=resnet", "image_size=32", "model.stem=native")
    assert "dropout 0.3" in show("model=alexnet", "+model.args.dropout=0.3")


def test_csv_of_a_network_is_exact(show, tmp_path):
    path = tmp_path / "my layers, all.csv"
    assert f"Written: {path}" in show("model=lenet", f"csv={path}", "depth=all")
    rows = list(csv.DictReader(path.open()))
    assert rows[0] == {
        "layer": "c1",
        "kind": "conv 5x5, 6",
        "output": "6x28x28",
        "parameters": "156",
        "multiply_accumulates": "117600",
        "memory_bytes": str(4 * 6 * 28 * 28),
    }
    assert sum(int(row["parameters"]) for row in rows) == 61_706


def test_the_lectures_inception_question(show):
    page = show("block=inception")
    naive, better = page.split("with bottlenecks\n")
    assert row(naive, "input")[1] == "256x28x28"
    assert row(naive, "total")[1:4] == ["672x28x28", "1,089,536", "854,196,224"]
    assert row(naive, "conv5x5")[1:6] == ["conv", "5x5", "p2,", "96", "96x28x28"]
    # the slide's own lines, 28 x 28 x (out) x kernel x (in); their sum is not its 358M
    lines = [64 * 256, 64 * 256, 128 * 256, 192 * 9 * 64, 96 * 25 * 64, 64 * 256]
    assert row(better, "total")[1:4] == ["480x28x28", "346,112", f"{28 * 28 * sum(lines):,}"]
    assert 28 * 28 * (sum(lines) + lines[3]) == 358_055_936
    assert "naive : with bottlenecks = 3.15 in multiply-accumulates" in page
    assert row(show("block=inception", "channels=512", "image_size=14"), "pool")[5] == "512x14x14"


@pytest.mark.parametrize(
    ("block", "ratio"),
    [("stack", 49 / 27), ("residual", 16.94), ("resnext", 0.99), ("fire", 12.0), ("dense", 1.44)],
)
def test_the_other_blocks(block, ratio, show):
    assert f" = {ratio:.2f} in multiply-accumulates" in show(f"block={block}")
    twice = 2 * BLOCKS[block].channels
    assert f"{twice}x7x7" in show(f"block={block}", f"channels={twice}", "image_size=7")


def test_every_block_is_in_the_help():
    for block in BLOCKS:
        assert re.search(rf"\b{block}\b", describe.__doc__)


def test_the_zoo_as_a_table(show):
    wide = show(width=200)
    assert row(wide, "vgg16")[1:] == [
        *("vgg", "2014", "3x224x224", "138,357,544", "15,470,264,320", "71.6", "ImageNet", "1-crop", "V1"),
    ]
    narrow = show(width=80)
    assert max(map(len, narrow.splitlines())) <= 80
    assert row(narrow, "resnet50")[1:] == [
        *("2015", "224", "25.6M", "4.09G", "76.1", "ImageNet", "1-crop", "V1", "V2"),
    ]
    assert {line.split()[0] for line in narrow.splitlines() if line.strip()} >= set(list_models())
    assert "…" not in narrow


def test_the_zoo_as_csv_and_as_a_picture(show, tmp_path):
    path, bubbles = tmp_path / "zoo.csv", tmp_path / "zoo.svg"
    page = show(f"csv={path}", f"picture={bubbles}")
    assert f"Written: {path}\nWritten: {bubbles}\n" in page
    assert "<!-- resnet50 -->" in bubbles.read_text()
    rows = {row["name"]: row for row in csv.DictReader(path.open())}
    assert list(rows) == list_models()
    for name in list_models():
        facts = info(name)
        assert int(rows[name]["parameters"]) == facts.parameters
        counted = int(rows[name]["multiply_accumulates"])
        assert counted == facts.multiply_accumulates or (facts.multiply_accumulates is None and counted > 0)
        assert rows[name]["top1"] == ("" if facts.accuracy is None else str(facts.accuracy.top1))
        assert rows[name]["source"] == ("" if facts.accuracy is None else facts.accuracy.source)
        assert rows[name]["torchvision_weights"].split() == list(facts.weights)


def test_every_published_accuracy_says_what_it_was_measured_on(zoo):
    for row in zoo:
        if row["top1"] is not None:
            assert re.fullmatch(r"(ImageNet( (\d+-crop|whole))?|CIFAR-10|MNIST)", row["measured_on"]), row["source"]
    assert dataset_and_crops("the paper's Table 2, ImageNet val, ten crops") == "ImageNet 10-crop"
    assert dataset_and_crops("somewhere, ImageNet val, 144 crops of 224") == "ImageNet 144-crop"
    assert dataset_and_crops("somewhere, ImageNet val, one central crop") == "ImageNet 1-crop"
    assert dataset_and_crops("CIFAR-100 test") == "CIFAR-100"


@pytest.mark.parametrize(
    ("number", "text"),
    [(61_100_840, "61.1M"), (4_089_184_256, "4.09G"), (999_999, "1.00M"), (132_863_336, "133M"), (5, "5")],
)
def test_figures_in_three_digits(number, text):
    assert format_count(number) == text


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["block=inceptoin"], "unknown block 'inceptoin': did you mean inception?"),
        (["block=inception", "channels=0"], "channels=0: a whole number of 1 or more"),
        (["block=inception", "image_size=-3"], "image_size=-3: a whole number of 1 or more"),
        (["block=fire", "channels=12"], "channels=12: block=fire takes a multiple of 8"),
        (["block=fire", "model=resnet"], "model and block=fire do not go together"),
        (["block=fire", "csv=x.csv"], "csv and block=fire do not go together"),
        (["model=resnt"], "unknown model 'resnt': did you mean resnet"),
        (["model=resnet", "model.name=resnet51"], "unknown model 'resnet51': did you mean resnet"),
        (["model=resnet", "model.name=vgg11"], "model.name=vgg11 is of the family vgg: type model=vgg as well"),
        (["model.name=vgg11"], "model.name: no model is chosen: type its family as well, for example model=resnet"),
        (["model=vgg", "image_size=31"], "image_size=31: vgg11_bn with the small stem takes 32 or more pixels"),
        (["model=vgg", "image_size=20", "model.stem=native"], "image_size=20: vgg11_bn with the native stem takes 32"),
        (["model=lenet", "image_size=64"], "image_size=64: lenet5 takes exactly 32 pixels"),
        (["model=vgg", "image_size=big"], "image_size=big: a whole number"),
        (["model=vgg", "channels=0"], "channels=0: a whole number"),
        (["model=vgg", "model.num_classes=0"], "num_classes=0 for vgg11_bn"),
        (["model=vgg", "model.stem=tiny"], "model.stem=tiny: there are auto, native, small"),
        (["model=vgg", "+model.args.dropuot=1"], "vgg11_bn takes no argument 'dropuot' (did you mean dropout?)"),
        (["model=vgg", "+model.args.dropout=2"], "model.args={'dropout': 2}"),
        (["model=vgg", "depth=0"], "depth=0: a number of levels of 1 or more, all, or auto"),
        (["model=vgg", "depth=deep"], "depth=deep: a number of levels"),
        (["model=vgg", "picture=x.png"], "picture=x.png: has no part in the table of a network"),
        (["model=vgg", "model.weights=DEFAULT"], "model.weights=DEFAULT: has no part in the table of a network"),
        (["model=lenet", "csv=/no/such/place.csv"], "csv=/no/such/place.csv cannot be written: No such file"),
        (["csv=/no/such/place.csv"], "csv=/no/such/place.csv cannot be written: No such file"),
        (
            ["picture=/no/such/place.png"],
            "picture=/no/such/place.png cannot be written: there is no directory /no/such",
        ),
        (["picture=zoo.bmp"], "picture=zoo.bmp: name a file that ends in .png, .pdf, .svg"),
        (["image_size=64"], "image_size=64: needs a network or a block"),
        (["depht=1"], "unknown key 'depht': did you mean depth?"),
        (["data=digits"], "unknown key 'data'"),
        (["optimizer=adamw"], "unknown key 'optimizer'"),
        (["+foo=1"], "+foo: nothing reads it"),
    ],
)
def test_bad_words_are_one_line(words, says, show):
    with pytest.raises(UserError) as error:
        show(*words)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_every_family_can_be_described():
    for family in cli.choices("model"):
        words, _ = cli.prepare([f"model={family}"], config="describe", help_text="")
        with hydra.initialize_config_dir(str(cli.CONF), version_base="1.3"):
            assert info(hydra.compose("describe", overrides=words).model.name).family == family


def test_help_is_a_page_whose_keys_exist(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.prepare(["--help"], config="describe", help_text=describe.__doc__)
    assert stop.value.code == 0
    page = capsys.readouterr().out
    assert page.startswith("Show a network layer by layer")
    assert max(map(len, page.splitlines())) <= 120
    assert re.search(r"^  model +alexnet", page, re.MULTILINE)
    assert not re.search(r"^  (optimizer|data) ", page, re.MULTILINE)
    keys = set(re.findall(r"[\w.]+(?==)", describe.__doc__)) - {"HYDRA_FULL_ERROR", "model", "model.args.dropout"}
    cli.prepare(["model=resnet", *(f"{key}=null" for key in sorted(keys))], config="describe", help_text="")


def test_in_the_shell_it_leaves_nothing_behind_and_fails_in_one_line(tmp_path):
    def shell(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(ROOT / "describe.py"), *words]
        return subprocess.run(
            command, cwd=tmp_path, env={**os.environ, "COLUMNS": "100"}, capture_output=True, text=True, timeout=300
        )

    done = shell("model=lenet")
    assert (done.returncode, done.stderr) == (0, "")
    assert row(done.stdout, "total")[1:4] == ["10", "61,706", "416,520"]
    done = shell("model=lenet", "image_size=10")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: image_size=10: lenet5 takes exactly 32 pixels\n"
    assert list(tmp_path.iterdir()) == []


def test_it_loads_nothing_of_training():
    command = "import sys, cnnzoo.describe; sys.exit(bool({'pytorch_lightning', 'matplotlib'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", command], cwd=ROOT).returncode == 0
