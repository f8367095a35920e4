"""The Python code of the documentation: it compiles, its names exist, and what needs no GPU and no network runs."""

import ast
import importlib
import inspect

import pytest

import cnnzoo
from tests.helpers import ROOT
from tests.helpers.doc_places import RUN_OVERRIDES, create_files, enter_places
from tests.helpers.docs import PAGES, named_files, read_blocks

NOT_REQUIRED = {"accelerate"}
"""Packages that a page uses and that no extra installs."""
COVERED = {"docs/graphs.md": "test_graphs.py", "docs/load_data.md": "tests/data/test_load_data.py"}
"""Pages whose code another test runs; that of docs/extending/ is run by test_extending.py."""
BEFORE = {
    "docs/export.md": "import torch\nimages = torch.zeros(1, 1, 32, 32)",
    "docs/multilabel.md": "import cnnzoo",
}
"""What the text of a page says about the names in its code."""
CHANGES = {
    "README.md": {"range(90)": "range(1)", "image_size=224": "image_size=32", "resnet50": "resnet20"},
    "docs/data_sources.md": {"image_size=224": "image_size=32"},
    "docs/describe.md": {"path/to/checkout": str(ROOT)},
    "docs/export.md": {'"images": images}': '"images": images.numpy()}'},
}
"""What makes the code shorter, or is another name on this machine."""


def python_blocks(page):
    return [block for block in read_blocks(page) if block.language == "python"]


def page_name(page):
    return page.relative_to(ROOT).as_posix()


PYTHON_PAGES = [page for page in PAGES if python_blocks(page)]
RUN_PAGES = [page for page in PYTHON_PAGES if page_name(page) not in COVERED and page.parent.name != "extending"]


def check_import(module, names, own_modules):
    if module.split(".")[0] in NOT_REQUIRED | own_modules:
        return
    imported = importlib.import_module(module)
    missing = [name for name in names if not hasattr(imported, name)]
    for name in missing:
        importlib.import_module(f"{module}.{name}")


def check_call(call):
    """Check the names of the arguments of a call of a public function of cnnzoo."""
    if (
        isinstance(call.func, ast.Attribute)
        and isinstance(call.func.value, ast.Name)
        and call.func.value.id == "cnnzoo"
    ):
        keywords = {keyword.arg: None for keyword in call.keywords}
        inspect.signature(getattr(cnnzoo, call.func.attr)).bind(*call.args, **keywords)


@pytest.mark.parametrize("page", PYTHON_PAGES, ids=page_name)
def test_code_names_what_exists(page):
    own_modules = {name.removesuffix(".py") for name in named_files(page)}
    for block in python_blocks(page):
        for node in ast.walk(ast.parse(block.text, str(block))):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    check_import(alias.name, (), own_modules)
            elif isinstance(node, ast.ImportFrom):
                check_import(node.module, [alias.name for alias in node.names], own_modules)
            elif isinstance(node, ast.Call):
                check_call(node)


@pytest.fixture(scope="module")
def places(fork, tmp_path_factory):
    """The home directory with exported files, and a finished run."""
    home, run = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("runs") / "run"
    create_files(home)
    for job, arguments in {
        "train": (*RUN_OVERRIDES, f"run_dir={run}"),
        "train ": (
            *RUN_OVERRIDES,
            "data=digits_multilabel",
            "task=multilabel",
            f"run_dir={run.with_name('multilabel')}",
        ),
        "export": (f"run={run}", f"out={home}/lenet5.pt2"),
        "export ": (f"run={run}", f"out={home}/lenet5.onnx", "format=onnx"),
    }.items():
        done = fork(*arguments, job=job.strip())
        assert done.returncode == 0, done.stderr
    return home, run


@pytest.mark.long
@pytest.mark.parametrize("page", RUN_PAGES, ids=page_name)
def test_code_of_the_page_runs(page, places, fork, tmp_path):
    home, run = places
    code = "\n".join([BEFORE.get(page_name(page), ""), *(b.text for b in python_blocks(page) if not b.needs())])
    for text, replacement in CHANGES.get(page_name(page), {}).items():
        assert text in code
        code = code.replace(text, replacement)
    enter_places(home, run, tmp_path / "cwd", code)
    done = fork(statements=code, cwd=tmp_path / "cwd", HOME=str(home), TMPDIR=str(tmp_path), MPLBACKEND="Agg")
    assert done.returncode == 0, done.stdout + done.stderr
