"""The job `describe.py`: its numbers against the registered facts, its output and files, and error messages."""

import copy
import csv
import re
import subprocess
import sys

import hydra
import pytest

from cnnzoo import cli
from cnnzoo.describe import show
from cnnzoo.describe.blocks import BLOCKS
from cnnzoo.describe.show import dataset_and_crops
from cnnzoo.describe.tables import format_count
from cnnzoo.errors import UserError
from cnnzoo.jobs import describe
from cnnzoo.models import info, list_models
from tests.helpers import ROOT


@pytest.fixture
def run_describe(capsys, monkeypatch):
    """`run_describe("model=alexnet", ...)` runs the job in this process, 120 columns wide; returns its output."""

    def run(*overrides: str, width: int = 120) -> str:
        monkeypatch.setenv("COLUMNS", str(width))
        prepared, _ = cli.prepare(list(overrides), job="describe", help_text=describe.__doc__)
        with hydra.initialize_config_dir(str(cli.CONF), version_base="1.3"):
            cfg = hydra.compose("describe", overrides=prepared)
        capsys.readouterr()
        describe.main(cfg)
        return capsys.readouterr().out

    return run


@pytest.fixture(autouse=True)
def rows_built_once(rows, monkeypatch):
    monkeypatch.setattr(show, "zoo_rows", lambda: copy.deepcopy(rows))


def table_row(output: str, name: str) -> list[str]:
    """The words of the only line that starts with `name`."""
    (line,) = [line for line in output.splitlines() if line.split()[:1] == [name]]
    return line.split()


def test_describe_alexnet_equals_the_lecture(run_describe):
    output = run_describe("model=alexnet", "model.name=alexnet_paper")
    assert table_row(output, "input") == ["input", "3x227x227", "603.9"]
    conv1 = ["features.0", "conv", "11x11/4,", "96", "96x55x55", "34,944", "105,415,200", "1,134.4"]
    assert table_row(output, "features.0") == conv1
    assert table_row(output, "features.1") == ["features.1", "relu", "96x55x55"]  # in place: no memory
    assert table_row(output, "features.4")[:6] == ["features.4", "conv", "5x5", "p2", "g2,", "256"]
    assert table_row(output, "flatten") == ["flatten", "flatten", "9216"]
    assert table_row(output, "classifier.0") == [
        "classifier.0",
        "fc,",
        "4096",
        "4096",
        "37,752,832",
        "37,748,736",
        "16.0",
    ]
    total = table_row(output, "total")
    assert total[:4] == ["total", "1000", "60,965,224", "724,406,816"]
    kib = [line.split()[-1] for line in output.splitlines() if re.match(r"(input|features|avgpool|classifier)\b", line)]
    assert float(total[4].replace(",", "")) == pytest.approx(
        sum(float(k.replace(",", "")) for k in kib if re.fullmatch(r"[\d,]+\.\d", k)), abs=1
    )


def test_depth_selects_levels(run_describe):
    output = run_describe("model=resnet", "model.name=resnet50", "depth=1")
    assert table_row(output, "layer3")[:6] == ["layer3", "6", "x", "Bottleneck", "1024x14x14", "7,098,368"]
    output = run_describe("model=resnet", "model.name=resnet50")
    assert table_row(output, "layer3.5")[:3] == ["layer3.5", "Bottleneck", "1024x14x14"]
    output = run_describe("model=resnet", "model.name=resnet50", "depth=all")
    assert table_row(output, "layer1.0.downsample.0")[1:5] == ["conv", "1x1,", "256", "256x56x56"]
    assert table_row(output, "layer3.5.add") == ["layer3.5.add", "add", "1024x14x14"]  # in place: no memory
    assert output == run_describe("model=resnet", "model.name=resnet50", "depth=99")
    assert "conv 7x7/2 p3, 64 + batch norm + relu" in run_describe("model=googlenet")


def test_auxiliary_heads_are_not_counted(run_describe):
    output = run_describe("model=googlenet")
    assert table_row(output, "total")[2] == "6,624,904"
    assert "Not in the table: aux1, aux2; 6,379,984 parameters, used in training only." in output
    assert "Not in the table" not in run_describe("model=resnet")


def test_input_and_num_classes_overrides(run_describe):
    output = run_describe("model=resnet", "image_size=32", "channels=1", "model.num_classes=7")
    assert "resnet18 (small stem)" in output
    assert table_row(output, "input")[1] == "1x32x32"
    assert table_row(output, "total")[1:3] == ["7", "11,171,271"]
    assert table_row(run_describe("model=resnet", "model.stem=small"), "input")[1] == "3x32x32"
    assert "resnet18 (native stem)" in run_describe("model=resnet", "image_size=32", "model.stem=native")
    assert "dropout 0.3" in run_describe("model=alexnet", "+model.args.dropout=0.3")


def test_input_of_height_and_width(run_describe):
    wide, square = (run_describe("model=resnet", f"image_size={size}", "depth=1") for size in ("[64,128]", "64"))
    assert table_row(wide, "input")[1] == "3x64x128"
    assert "512x2x4" in table_row(wide, "layer4")
    counts = [int(table_row(output, "total")[3].replace(",", "")) for output in (wide, square)]
    assert counts[0] - 512_000 == 2 * (counts[1] - 512_000)  # the last layer has 512,000
    assert table_row(run_describe("block=inception", "channels=512", "image_size=[14,28]"), "pool")[5] == "512x14x28"


def test_network_csv_is_exact(run_describe, tmp_path):
    path = tmp_path / "my layers, all.csv"
    assert f"Wrote {path}" in run_describe("model=lenet", f"csv={path}", "depth=all")
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


def test_block_inception_equals_the_lecture(run_describe):
    output = run_describe("block=inception")
    naive, bottlenecks = output.split("with bottlenecks\n")
    assert table_row(naive, "input")[1] == "256x28x28"
    assert table_row(naive, "total")[1:4] == ["672x28x28", "1,089,536", "854,196,224"]
    assert table_row(naive, "conv5x5")[1:6] == ["conv", "5x5", "p2,", "96", "96x28x28"]
    # The lines of the slide, 28 x 28 x (out) x kernel x (in). Their sum is not the 358M of the slide.
    lines = [64 * 256, 64 * 256, 128 * 256, 192 * 9 * 64, 96 * 25 * 64, 64 * 256]
    assert table_row(bottlenecks, "total")[1:4] == ["480x28x28", "346,112", f"{28 * 28 * sum(lines):,}"]
    assert 28 * 28 * (sum(lines) + lines[3]) == 358_055_936
    assert "naive : with bottlenecks = 3.15 in multiply-accumulates" in output
    assert table_row(run_describe("block=inception", "channels=512", "image_size=14"), "pool")[5] == "512x14x14"


@pytest.mark.parametrize(
    ("block", "ratio"),
    [("stack", 49 / 27), ("residual", 16.94), ("resnext", 0.99), ("fire", 12.0), ("dense", 1.44)],
)
def test_block_ratio(block, ratio, run_describe):
    assert f" = {ratio:.2f} in multiply-accumulates" in run_describe(f"block={block}")
    twice = 2 * BLOCKS[block].channels
    assert f"{twice}x7x7" in run_describe(f"block={block}", f"channels={twice}", "image_size=7")


def test_help_names_every_block():
    for block in BLOCKS:
        assert re.search(rf"\b{block}\b", describe.__doc__)


def test_zoo_table(run_describe):
    wide = run_describe(width=200)
    assert table_row(wide, "vgg16")[1:] == [
        *("vgg", "2014", "3x224x224", "138,357,544", "15,470,264,320", "71.6", "ImageNet", "1-crop", "V1"),
    ]
    narrow = run_describe(width=80)
    assert max(map(len, narrow.splitlines())) <= 80
    assert table_row(narrow, "resnet50")[1:] == [
        *("2015", "224", "25.6M", "4.09G", "76.1", "ImageNet", "1-crop", "V1", "V2"),
    ]
    assert {line.split()[0] for line in narrow.splitlines() if line.strip()} >= set(list_models())
    assert "…" not in narrow


def test_zoo_csv_and_chart(run_describe, tmp_path):
    path, chart = tmp_path / "zoo.csv", tmp_path / "zoo.svg"
    output = run_describe(f"csv={path}", f"picture={chart}")
    assert f"Wrote {path}\nWrote {chart}\n" in output
    assert "<!-- resnet50 -->" in chart.read_text()
    rows = {row["name"]: row for row in csv.DictReader(path.open())}
    assert list(rows) == list_models()
    for name in list_models():
        facts = info(name)
        assert int(rows[name]["parameters"]) == facts.parameters
        macs = int(rows[name]["multiply_accumulates"])
        assert macs == facts.multiply_accumulates or (facts.multiply_accumulates is None and macs > 0)
        assert rows[name]["top1"] == ("" if facts.accuracy is None else str(facts.accuracy.top1))
        assert rows[name]["source"] == ("" if facts.accuracy is None else facts.accuracy.source)
        assert rows[name]["torchvision_weights"].split() == list(facts.weights)


def test_dataset_and_crops_of_all_accuracies(rows):
    for row in rows:
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
def test_format_count(number, text):
    assert format_count(number) == text


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["block=inceptoin"], "unknown block 'inceptoin': did you mean inception?"),
        (["block=inception", "channels=0"], "channels=0: expected a whole number >= 1"),
        (["block=inception", "image_size=-3"], "image_size=-3: expected a whole number >= 1"),
        (["block=fire", "channels=12"], "channels=12: block=fire expects a multiple of 8"),
        (["block=fire", "model=resnet"], "model and block=fire cannot be combined"),
        (["block=fire", "csv=x.csv"], "csv and block=fire cannot be combined"),
        (["model=resnt"], "unknown model 'resnt': did you mean resnet"),
        (["model=resnet", "model.name=resnet51"], "unknown model 'resnet51': did you mean resnet"),
        (["model=resnet", "model.name=vgg11"], "model.name=vgg11: type model=vgg model.name=vgg11"),
        (["model.name=vgg11"], "model.name: no model is chosen; type its family as well, for example model=resnet"),
        (["model=vgg", "image_size=31"], "image_size=31: vgg11_bn with the small stem takes 32 or more pixels"),
        (["model=vgg", "image_size=20", "model.stem=native"], "image_size=20: vgg11_bn with the native stem takes 32"),
        (["model=lenet", "image_size=64"], "image_size=64: lenet5 takes exactly 32 pixels"),
        (["model=lenet", "image_size=[32,64]"], "image_size=[32,64]: lenet5 takes exactly 32 pixels in height and"),
        (["model=vgg", "image_size=big"], "image_size=big: expected a whole number"),
        (["model=vgg", "channels=0"], "channels=0: expected a whole number"),
        (["model=vgg", "model.num_classes=0"], "num_classes=0: expected a whole number >= 1 for vgg11_bn"),
        (["model=vgg", "model.stem=tiny"], "model.stem=tiny: expected auto, native or small"),
        (["model=vgg", "+model.args.dropuot=1"], "vgg11_bn has no argument 'dropuot': did you mean dropout?"),
        (
            ["model=vgg", "+model.args.dropout=2"],
            "dropout=2: expected a number >= 0 and <= 1 (a probability) for vgg11_bn",
        ),
        (["model=vgg", "depth=0"], "depth=0: expected a whole number >= 1 (levels of modules), all or auto"),
        (["model=vgg", "depth=deep"], "depth=deep: expected a whole number"),
        (["model=vgg", "picture=x.png"], "picture=x.png: not used for the table of a network"),
        (["model=vgg", "model.weights=DEFAULT"], "model.weights=DEFAULT: not used for the table of a network"),
        (["model=lenet", "csv=/no/such/place.csv"], "csv=/no/such/place.csv cannot be written: No such file"),
        (["csv=/no/such/place.csv"], "csv=/no/such/place.csv cannot be written: No such file"),
        (
            ["picture=/no/such/place.png"],
            "picture=/no/such/place.png cannot be written: there is no directory /no/such",
        ),
        (["picture=zoo.bmp"], "picture=zoo.bmp: expected a file that ends in .png, .pdf, .svg"),
        (["image_size=64"], "image_size=64: used only with a network or a block"),
        (["depth=2"], "depth=2: used only with a network; also type model=..."),
        (["block=residual", "depth=1"], "depth and block=residual cannot be combined: leave one out"),
        (["model=lenet", "+model.args.num_classes=3"], "model.args.num_classes=3: type model.num_classes=3 instead"),
        (["model=lenet", "+model.args.in_channels=3"], "model.args.in_channels=3: the input determines it; leave"),
        (["model=lenet", "model.args=null"], "model.args=None: expected a group of keys"),
        (["depht=1"], "unknown key 'depht': did you mean depth?"),
        (["data=digits"], "unknown key 'data'"),
        (["optimizer=adamw"], "unknown key 'optimizer'"),
        (["+foo=1"], "+foo: nothing reads this key"),
    ],
)
def test_invalid_override_is_a_one_line_error(overrides, message, run_describe):
    with pytest.raises(UserError) as error:
        run_describe(*overrides)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_csv_is_written_without_matplotlib(run_describe, monkeypatch, tmp_path):
    for module in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match=r'zoo\.png needs matplotlib: type pip install "cnnzoo\[plot\]"$'):
        run_describe(f"csv={tmp_path / 'zoo.csv'}", f"picture={tmp_path / 'zoo.png'}")
    assert len((tmp_path / "zoo.csv").read_text().splitlines()) > 50
    assert not (tmp_path / "zoo.png").exists()


@pytest.mark.long
def test_config_composes_for_every_family():
    for family in set(cli.ConfigTree("train").choices("model")) - {"custom"}:
        overrides, _ = cli.prepare([f"model={family}"], job="describe", help_text="")
        with hydra.initialize_config_dir(str(cli.CONF), version_base="1.3"):
            assert info(hydra.compose("describe", overrides=overrides).model.name).family == family


def test_help_names_only_existing_keys(capsys):
    with pytest.raises(SystemExit) as error:
        cli.prepare(["--help"], job="describe", help_text=describe.__doc__)
    assert error.value.code == 0
    output = capsys.readouterr().out
    assert output.startswith("Show a network layer by layer")
    assert max(map(len, output.splitlines())) <= 120
    assert re.search(r"^  model +alexnet", output, re.MULTILINE)
    assert not re.search(r"^  (optimizer|data) ", output, re.MULTILINE)
    keys = set(re.findall(r"[\w.]+(?==)", describe.__doc__)) - {"HYDRA_FULL_ERROR", "model", "model.args.dropout"}
    typed = [f"{key}=null" for key in sorted(keys - {"model.name"})]
    cli.prepare(["model=resnet", "model.name=resnet34", *typed], job="describe", help_text="")


def test_script_leaves_no_files_and_fails_in_one_line(tmp_path, fork):
    command = [sys.executable, str(ROOT / "describe.py"), "model=lenet"]
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert (process.returncode, process.stderr) == (0, "")
    assert table_row(process.stdout, "total")[1:4] == ["10", "61,706", "416,520"]
    process = fork("model=lenet", "image_size=10", job="describe", cwd=tmp_path)
    assert (process.returncode, process.stdout) == (1, "")
    assert process.stderr == "error: image_size=10: lenet5 takes exactly 32 pixels\n"
    assert list(tmp_path.iterdir()) == []


def test_describe_does_not_import_lightning():
    command = "import sys, cnnzoo.describe; sys.exit(bool({'pytorch_lightning', 'matplotlib'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", command], cwd=ROOT).returncode == 0
