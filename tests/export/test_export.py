"""`export`: each file computes what the network does, in a process that cannot import cnnzoo."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from cnnzoo import load_run
from cnnzoo.data.transforms.preprocess import normalize
from cnnzoo.errors import UserError
from cnnzoo.export.export import export, write_and_compare
from cnnzoo.export.program import example_images, export_metadata, with_preprocessing
from cnnzoo.models import info
from tests.helpers.standalone import run_standalone
from tests.helpers.zoo import SMALL_DEPTHS, shallow_params

SUFFIXES = {"pt2": ".pt2", "onnx": ".onnx", "aoti": ".pt2"}


def check_standalone(net, format_name, directory, *, preprocess=False):
    """Export, run the file without cnnzoo, and compare it with the network for batches of 1 and 7 images."""
    out = directory / f"network{SUFFIXES[format_name]}"
    result = export(net, out, format_name, preprocess=preprocess)
    assert result.size == out.stat().st_size
    images = example_images(net, 8, is_uint8=preprocess).split([1, 7])
    logits = run_standalone(format_name, out, [batch.numpy() for batch in images])
    for batch, actual in zip(images, logits, strict=True):
        if preprocess:
            batch = normalize(batch, net.preprocess.mean, net.preprocess.std)
        with torch.no_grad():
            expected = net(batch).numpy()
        assert actual.shape == expected.shape
        assert np.abs(actual - expected).max() <= 1e-4 * np.abs(expected).max()
    assert [path.name for path in directory.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("name", "format_name", "preprocess"),
    [
        ("lenet5", "pt2", True),
        ("squeezenet1_1", "onnx", False),
        pytest.param("squeezenet1_1", "pt2", False, marks=pytest.mark.long),
        pytest.param("lenet5", "onnx", True, marks=pytest.mark.long),
        pytest.param("lenet5", "aoti", False, marks=pytest.mark.long),
        pytest.param("squeezenet1_1", "aoti", True, marks=pytest.mark.long),
    ],
)
def test_export_runs_without_cnnzoo(name, format_name, preprocess, build, tmp_path):
    net = build(name, num_classes=5, stem="small", image_size=32)
    check_standalone(net, format_name, tmp_path, preprocess=preprocess)


@pytest.mark.zoo
@pytest.mark.parametrize(("name", "arguments"), [param for param in shallow_params() if not param.marks])
@pytest.mark.parametrize("format_name", ["pt2", "onnx"])
def test_export_of_every_family(name, arguments, format_name, build, tmp_path):
    net = build(name, image_size=info(name).sizes("small")[0], num_classes=10, stem="small", **arguments)
    check_standalone(net, format_name, tmp_path)


@pytest.mark.zoo
@pytest.mark.parametrize("name", ["resnext50_32x4d", "densenet121"])  # a minute for each network
def test_aoti_of_larger_networks(name, build, tmp_path):
    net = build(name, image_size=32, num_classes=10, stem="small", **SMALL_DEPTHS[name])
    check_standalone(net, "aoti", tmp_path)


def test_export_safetensors_loads_again(lenet, tmp_path):
    result = export(lenet, tmp_path / "lenet.safetensors", "safetensors")
    loaded = load_run(tmp_path / "lenet.safetensors")
    assert result.difference == 0
    assert loaded.classes == lenet.classes
    assert str(loaded.preprocess) == str(lenet.preprocess)


def test_export_of_another_image_size(build, tmp_path):
    net = build("nin_cifar", image_size=32)
    result = export(net, tmp_path / "network.pt2", "pt2", image_size=16)
    assert result.images == "float32 (batch, 3, 16, 16)"
    program = torch.export.load(tmp_path / "network.pt2").module()
    images = torch.randn(3, 3, 16, 16)
    torch.testing.assert_close(program(images), net(images))


def test_export_checks_the_image_size(lenet, tmp_path):
    with pytest.raises(UserError, match="image_size=64: lenet5 takes exactly 32 pixels"):
        export(lenet, tmp_path / "lenet.pt2", "pt2", image_size=64)


def test_export_of_other_logits_is_an_error_and_no_file(lenet, tmp_path):
    out = tmp_path / "lenet.txt"
    images = example_images(lenet, 7)
    with pytest.raises(UserError, match=r"other logits than the network \(a difference of 1.0e-02"):
        write_and_compare(
            lenet,
            images,
            out,
            write=lambda path: path.write_text("a file"),
            load=lambda path: lambda images: 1.01 * lenet(images),
        )
    assert list(tmp_path.iterdir()) == []


def test_export_of_nan_is_an_error(lenet, tmp_path):
    with pytest.raises(UserError, match="a difference of nan"):
        write_and_compare(
            lenet,
            example_images(lenet, 7),
            tmp_path / "lenet.txt",
            write=lambda path: path.write_text("a file"),
            load=lambda path: lambda images: torch.nan * lenet(images),
        )


def test_export_compares_batches_of_1_and_7(lenet, tmp_path):
    sizes = []

    def load(path):
        def function(images):
            sizes.append(len(images))
            return lenet(images)

        return function

    result = write_and_compare(
        lenet, example_images(lenet, 7), tmp_path / "x.txt", write=lambda path: path.write_text("a"), load=load
    )
    assert sizes[:2] == [1, 7]
    assert set(sizes) == {1, 7}
    assert result == replace(result, size=1, difference=0.0, images="float32 (batch, 1, 32, 32)")


def test_preprocessing_in_the_graph_equals_evaluation(build):
    net = build("squeezenet1_1", num_classes=5, stem="small", image_size=32)
    images = example_images(net, 4, is_uint8=True)
    expected = net(normalize(images, net.preprocess.mean, net.preprocess.std))
    torch.testing.assert_close(with_preprocessing(net)(images), expected)


def test_preprocessing_of_a_network_without_is_an_error(build):
    net = build("lenet5")
    del net.preprocess
    with pytest.raises(UserError, match="preprocess=true: the network does not say"):
        with_preprocessing(net)


def test_example_images_without_preprocessing_have_the_papers_size(build):
    net = build("squeezenet1_1", num_classes=5)
    del net.preprocess
    assert example_images(net, 2).shape == (2, 3, 224, 224)


def test_export_metadata_is_json_and_describes_the_input(lenet):
    metadata = json.loads(json.dumps(export_metadata(lenet, example_images(lenet, 2, is_uint8=True))))
    assert metadata["input"] == {"dtype": "uint8", "shape": ["batch", 1, 32, 32], "normalized_in_graph": True}
    assert metadata["classes"] == list(lenet.classes)
    assert metadata["model"]["name"] == "lenet5"
