"""What never imports what: DESIGN's rules, held by import-linter and by looking."""

import ast
import subprocess
import sys

import pytest

from tests.helpers import ROOT

FILES = sorted(ROOT.glob("cnnzoo/**/*.py")) + sorted(ROOT.glob("*.py"))
MAY_BUILD_ON_RESNET = ("wide_resnet", "resnext", "stochastic_depth")


def imported(path):
    """Every module that a file imports, dotted; of `from a import b` both a and a.b."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_layers():
    command = "import sys; from importlinter.cli import lint_imports_command as lint; lint()"
    done = subprocess.run([sys.executable, "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 kept, 0 broken" in done.stdout


@pytest.mark.parametrize(
    ("package", "allowed"),
    [
        (
            "hydra",
            {
                str(path.relative_to(ROOT))
                for pattern in ("cnnzoo/cli/*.py", "cnnzoo/jobs/*.py", "*.py")
                for path in ROOT.glob(pattern)
            },
        ),
        ("nvidia", {"cnnzoo/data/loaders/dali_loader.py"}),
        ("torchvision.models", {"cnnzoo/models/weights.py"}),
        ("torchvision.datasets", {"cnnzoo/data/datasets/torchvision_sets.py"}),
    ],
)
def test_only_these_import(package, allowed):
    users = {
        str(path.relative_to(ROOT))
        for path in FILES
        if any(name == package or name.startswith(f"{package}.") for name in imported(path))
        # a function of torchvision's that reads features out of any network, not a network
        and not all(
            name.startswith("torchvision.models.feature_extraction") for name in imported(path) if package in name
        )
    }
    assert users <= allowed


def test_a_family_imports_no_sibling():
    families = {p.stem for p in (ROOT / "cnnzoo/models").glob("*.py")} - {
        "__init__",
        "factory",
        "input_spec",
        "layers",
        "registry",
        "weights",
    }
    for family in families:
        siblings = {f"cnnzoo.models.{other}" for other in families - {family}}
        if family in MAY_BUILD_ON_RESNET:
            siblings.discard("cnnzoo.models.resnet")
        assert not siblings & set(imported(ROOT / f"cnnzoo/models/{family}.py")), family


def test_importing_cnnzoo_loads_nothing_heavy():
    command = "import sys, cnnzoo, cnnzoo.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", command], cwd=ROOT).returncode == 0


def test_importing_the_data_sets_loads_neither_torchvision_nor_dali():
    command = "import sys, cnnzoo.data; sys.exit(bool({'torchvision', 'nvidia.dali'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", command], cwd=ROOT).returncode == 0
