"""`export.py`: the whole job, on a run of LeNet-5 on digits."""

import re

import pytest
import torch

from cnnzoo import load_run


@pytest.fixture
def export(fork, tmp_path):
    """`export("format=onnx", ...)` runs `export.py` in `tmp_path`."""

    def run(*overrides):
        return fork(*overrides, job="export", cwd=tmp_path)

    return run


def accuracy(output):
    """The accuracies after and before in the table of the job."""
    after, before = re.search(r"accuracy +([\d.]+) on 360 test images, ([\d.]+) before", output).groups()
    return float(after), float(before)


def test_export_job_writes_the_default_file(export, digits_run, tmp_path):
    done = export(f"run={digits_run}", "preprocess=true")
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["lenet5.pt2"]
    for text in (f"lenet5: {digits_run}", "input     uint8 (batch, 1, 32, 32)", "compared", "ms per image"):
        assert text in done.stdout
    images = torch.randint(256, (3, 1, 32, 32), dtype=torch.uint8)
    net = load_run(digits_run)
    mean, std = (torch.tensor(values).view(1, 1, 1, 1) for values in (net.preprocess.mean, net.preprocess.std))
    program = torch.export.load(tmp_path / "lenet5.pt2").module()
    torch.testing.assert_close(program(images), net((images / 255 - mean) / std), rtol=1e-4, atol=1e-4)


@pytest.mark.long
def test_export_job_of_a_network_with_random_weights(export):
    done = export("model=lenet", "format=safetensors", "out=x.safetensors")
    assert done.returncode == 1
    assert "its weights would be random" in done.stderr
    done = export("model=lenet", "out=x.pt2")
    assert done.returncode == 0, done.stderr
    assert "lenet5 with random weights" in done.stdout
    done = export("model=lenet", "out=x.pt2")
    assert done.returncode == 1
    assert done.stderr.strip() == (
        "error: out=x.pt2: exists already, and nothing is overwritten; type out=FILE with another name"
    )


def test_export_job_compresses_a_run(export, digits_run, tmp_path):
    done = export(f"run={digits_run}", "format=compressed", "epochs=3", "device=cpu", "data.batch_size=128")
    assert done.returncode == 0, done.stderr
    after, before = accuracy(done.stdout)
    assert before > 0.9
    assert after > before - 0.05
    factor = float(re.search(r"([\d.]+) times smaller", done.stdout)[1])
    assert factor > 10
    net, compressed = load_run(digits_run), load_run(tmp_path / "lenet5.compressed.safetensors")
    assert compressed.classes == net.classes
    assert not torch.equal(net.output.weight, compressed.output.weight)


@pytest.mark.long
def test_export_job_quantizes_a_run(export, digits_run, tmp_path):
    pytest.importorskip("torchao")
    done = export(f"run={digits_run}", "format=int8")
    assert done.returncode == 0, done.stderr
    after, before = accuracy(done.stdout)
    assert after > before - 0.02
    assert float(re.search(r"([\d.]+) times smaller", done.stdout)[1]) > 2
    assert (tmp_path / "lenet5.int8.onnx").is_file()
