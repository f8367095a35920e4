"""docs/tour.ipynb is committed with its output: complete, small, and without traces of a machine.

Its code, commands and links are tested with those of the other pages.
"""

import json
import re

import pytest

from tests.helpers import ROOT

NOTEBOOK = ROOT / "docs/tour.ipynb"
MAX_BYTES = 300_000


@pytest.fixture(scope="module")
def code_cells():
    return [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]


def test_notebook_was_executed_in_order(code_cells):
    assert [cell["execution_count"] for cell in code_cells] == list(range(1, len(code_cells) + 1))
    kinds = {(output["output_type"], output.get("name")) for cell in code_cells for output in cell["outputs"]}
    assert kinds == {("stream", "stdout"), ("display_data", None)}  # no error, and no warning on stderr
    assert all(cell["outputs"] for cell in code_cells)


def test_notebook_is_small_and_names_no_machine(code_cells):
    assert NOTEBOOK.stat().st_size < MAX_BYTES
    texts = ["".join(output.get("text", "")) for cell in code_cells for output in cell["outputs"]]
    assert re.findall(r"[\w./-]*(?:/\w+/|site-packages|localhost)[\w./-]*", "\n".join(texts)) == []
