"""The import rules: the contracts of import-linter, which packages may be imported where, and what loads slowly."""

import ast
import subprocess
import sys

import pytest

from tests.helpers import ROOT

FILES = sorted(ROOT.glob("cnnzoo/**/*.py")) + sorted(ROOT.glob("*.py"))
UNUSED_IN_TRAINING = {
    "cnnzoo.benchmark",
    "cnnzoo.describe.show",
    "cnnzoo.models.weights",
    "cnnzoo.runtime.fsdp",
    "cnnzoo.inference.load_run",
    "cnnzoo.training.profiler",
    "datasets",
    "filelock",
    "mlflow",
    "nvidia.dali",
    "onnx",
    "pandas",
    "pyarrow",
    "sklearn",
    "wandb",
}
"""Modules that training with the default configuration does not use, and that no library imports for it."""
MAY_BUILD_ON_RESNET = ("wide_resnet", "resnext", "stochastic_depth")


def imported_modules(path):
    """Every module that a file imports, dotted. `from a import b` counts as both a and a.b."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def run_python(code):
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)


def test_public_names_are_listed():
    code = "import cnnzoo; names = set(dir(cnnzoo)); from cnnzoo import *; print(create_model.__name__, *names)"
    names = run_python(code).stdout.split()
    assert names[0] == "create_model"
    assert {"create_model", "info", "list_models", "load_data", "load_run", "predict_images"} <= set(names[1:])


def test_import_contracts_are_kept():
    process = run_python("import sys; from importlinter.cli import lint_imports_command as lint; lint()")
    assert process.returncode == 0, process.stdout + process.stderr
    assert "6 kept, 0 broken" in process.stdout


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
        ("nvidia", {"cnnzoo/data/loaders/dali_loader.py", "cnnzoo/data/loaders/dali_pipeline.py"}),
        ("triton", {"cnnzoo/data/loaders/gpu_kernel.py"}),
        ("torchvision.models", {"cnnzoo/models/weights.py"}),
        ("torchvision.datasets", {"cnnzoo/data/datasets/torchvision_sets.py"}),
    ],
)
def test_package_is_imported_only_where_allowed(package, allowed):
    users = {
        str(path.relative_to(ROOT))
        for path in FILES
        if any(name == package or name.startswith(f"{package}.") for name in imported_modules(path))
        # torchvision.models.feature_extraction holds a function for any network, and no network
        and not all(
            name.startswith("torchvision.models.feature_extraction")
            for name in imported_modules(path)
            if package in name
        )
    }
    assert users <= allowed


def test_model_families_do_not_import_each_other():
    families = {p.stem for p in (ROOT / "cnnzoo/models").glob("*.py")} - {
        "__init__",
        "factory",
        "features",
        "input_spec",
        "layers",
        "network",
        "registry",
        "weights",
        "weights_file",
        "compressed",
        "custom",
        "output_check",
    }
    for family in families:
        siblings = {f"cnnzoo.models.{other}" for other in families - {family}}
        if family in MAY_BUILD_ON_RESNET:
            siblings.discard("cnnzoo.models.resnet")
        assert not siblings & set(imported_modules(ROOT / f"cnnzoo/models/{family}.py")), family


def test_import_cnnzoo_and_cli_loads_no_torch():
    process = run_python("import sys, cnnzoo, cnnzoo.cli; sys.exit('torch' in sys.modules)")
    assert process.returncode == 0, process.stderr


def test_import_data_loads_no_optional_package():
    packages = {"torchvision", "nvidia.dali", "triton"}
    process = run_python(f"import sys; from cnnzoo.data import *; sys.exit(bool({packages} & set(sys.modules)))")
    assert process.returncode == 0, process.stderr


def test_training_imports_no_unused_module(tmp_path):
    overrides = ["model=lenet", "trainer=cpu", "trainer.max_steps=1", "test=false", f"run_dir={tmp_path / 'run'}"]
    code = f"import gc, sys; from cnnzoo.jobs import train; sys.argv[1:] = {overrides}; train.run(); "
    process = run_python(code + "print(gc.isenabled(), gc.get_freeze_count(), *sys.modules)")
    assert process.returncode == 0, process.stderr
    gc_enabled, frozen, *modules = process.stdout.splitlines()[-1].split()
    assert not UNUSED_IN_TRAINING & set(modules)
    assert gc_enabled == "True"
    assert int(frozen) > 100_000, "the imports of a job belong into imports_without_gc()"
