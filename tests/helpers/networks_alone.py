"""What works with torch and torchvision alone, in a process that finds no packages but those that the two require.

As a script it checks the networks of a checkout: `python -S networks_alone.py CHECKOUT` in an empty directory. They
have to work, and what needs more packages has to name one of them.
"""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path
from typing import Any

HIDDEN = ("cv2", "hydra", "omegaconf", "pytorch_lightning", "rich", "safetensors", "simplejpeg", "tensorboard", "yaml")
PACKAGES = {"opencv-python-headless": "cv2", "hydra-core": "hydra", "pyyaml": "yaml"}


def run_networks_alone(checkout: Path, directory: Path) -> str:
    """Run this script with links to torch, torchvision and what they require; returns its output."""
    link_distributions(directory / "packages", "torch", "torchvision")
    (directory / "cwd").mkdir()
    done = subprocess.run(
        [sys.executable, "-S", __file__, checkout],
        cwd=directory / "cwd",
        env={**os.environ, "PYTHONPATH": str(directory / "packages")},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def link_distributions(directory: Path, *names: str) -> None:
    """Link the files of installed distributions, and of those that they require, into a new directory."""
    directory.mkdir()
    waiting, found = list(names), set()
    while waiting:
        name = waiting.pop()
        try:
            installed = distribution(name)
        except PackageNotFoundError:  # for another platform
            continue
        if name in found:
            continue
        found.add(name)
        for top in {file.parts[0] for file in installed.files or () if file.parts[0] not in ("..", "__pycache__")}:
            if not (directory / top).exists():
                (directory / top).symlink_to(Path(str(installed.locate_file(top))))
        required = (line for line in installed.requires or () if "extra ==" not in line)
        waiting += [match[0] for line in required if (match := re.match(r"[\w.-]+", line))]


def check_error(text: str, use: Callable[[], Any]) -> None:
    """Check that `use` ends with an error that names a hidden package and says what to type."""
    try:
        use()
    except (ImportError, SystemExit) as error:
        match = re.fullmatch(rf"{text} ([\w-]+), which is not installed; type pip install cnnzoo", str(error))
        if match is None:
            raise
        if PACKAGES.get(match[1], match[1]) in HIDDEN:
            return
    raise AssertionError(f"{text} a package, but no error says so")


def main(checkout: str) -> None:
    assert not any(map(find_spec, HIDDEN))
    sys.path.insert(0, checkout)

    import torch

    import cnnzoo
    from cnnzoo.__main__ import main as run_command

    names = {cnnzoo.info(name).family: name for name in reversed(cnnzoo.list_models())}  # the first one of each family
    for name in names.values():
        facts = cnnzoo.info(name)
        size = facts.sizes("small")[0]
        net = cnnzoo.create_model(name, stem="small", num_classes=3).eval()
        with torch.inference_mode():
            assert net(torch.zeros(1, 3, size, size)).shape == (1, 3), name
    net = cnnzoo.create_model("resnet20", num_classes=3)
    torch.save(net.state_dict(), "weights.pth")
    loaded = cnnzoo.create_model("resnet20", weights="weights.pth")
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in net.state_dict().items())
    assert (loaded.classes, loaded.preprocess.image_size) == (("0", "1", "2"), (32, 32))
    described = {"model": net.arguments, "classes": ["a", "b", "c"], "preprocess": loaded.preprocess.arguments}
    state_dict = {f"net.{key}": value for key, value in net.state_dict().items()}
    torch.save({"cnnzoo": described, "state_dict": state_dict}, "best.ckpt")
    assert cnnzoo.load_run("best.ckpt").classes == ("a", "b", "c")
    maps = cnnzoo.create_model("resnet20", features_only=True)(torch.zeros(1, 3, 32, 32))
    assert [tuple(features.shape[1:]) for features in maps] == [(16, 32, 32), (32, 16, 16), (64, 8, 8)]
    hub = torch.hub.load(checkout, "lenet5", source="local", in_channels=1, num_classes=7)
    assert sum(parameter.numel() for parameter in hub.parameters()) == 61_706 - 3 * 85

    for file in ("image.png", "weights.safetensors"):
        open(file, "wb").close()
    check_error("cnnzoo.load_data needs", lambda: cnnzoo.load_data)
    check_error("cnnzoo.predict_images needs", lambda: cnnzoo.predict_images)
    check_error("cnnzoo.data.ImageFolder needs", lambda: cnnzoo.data.ImageFolder)
    check_error("preprocess needs", lambda: loaded.preprocess("image.png"))
    check_error("weights.safetensors needs", lambda: cnnzoo.create_model("resnet20", weights="weights.safetensors"))
    sys.argv = ["cnnzoo", "train"]
    check_error("error: the command line needs", run_command)
    print(*sorted(names))


if __name__ == "__main__":
    main(sys.argv[1])
