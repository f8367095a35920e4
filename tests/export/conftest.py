"""Fixtures: networks with preprocessing and class names, and a short run on digits."""

import pytest
import torch

from cnnzoo.data import Preprocess
from cnnzoo.export import export
from cnnzoo.models import create_model, info


@pytest.fixture(autouse=True)
def no_timing(monkeypatch):
    """Measure the speed of three calls alone."""
    monkeypatch.setattr(export, "TIMING_SECONDS", 0)


@pytest.fixture(scope="session")
def build():
    """`build(name, **arguments)`: a network with random weights, as a run leaves it behind."""

    def build(name, *, image_size=None, **arguments):
        torch.manual_seed(0)
        net = create_model(name, **{"in_channels": info(name).in_channels, **arguments}).eval()
        for module in net.modules():
            if isinstance(module, torch.nn.BatchNorm2d):  # as after a training
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 2)
        channels = net.arguments.get("in_channels", 3)
        net.preprocess = Preprocess(
            image_size=image_size or info(name).input_size,
            eval_resize=1.0,
            channels=channels,
            mean=[0.3, 0.4, 0.5][:channels],
            std=[0.2, 0.3, 0.25][:channels],
        )
        net.classes = tuple(f"class {n}" for n in range(net.arguments["num_classes"]))
        return net

    return build


@pytest.fixture(scope="session")
def lenet(build):
    return build("lenet5", num_classes=10)


@pytest.fixture(scope="session")
def digits_run(fork, tmp_path_factory):
    """The directory of a run of LeNet-5 on digits, which reaches an accuracy of more than 0.9."""
    run_dir = tmp_path_factory.mktemp("runs") / "lenet"
    quick = ["trainer.max_epochs=4", "trainer=cpu", "callbacks=minimal", "logger=none", "loader.workers=0"]
    done = fork("model=lenet", f"run_dir={run_dir}", *quick)
    assert done.returncode == 0, done.stderr
    return run_dir
