"""The site of the documentation is built without a warning: no link is broken, and no page is missing in its menu."""

import os
import re
import subprocess
import sys

import pytest

from cnnzoo import info, list_models
from tests.helpers import ROOT


@pytest.mark.long
def test_site_is_built_without_a_warning(tmp_path):
    pytest.importorskip("material")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    for family in {info(name).family for name in list_models()}:
        page = (tmp_path / f"site/networks/{family}/index.html").read_text()
        assert '<svg class="drawing"' in page
        text = re.sub(r"<[^>]+>", "", page)
        assert f"python train.py model={family}" in text
        assert "What it reached here" in text
    assert not (tmp_path / "site/hooks").exists()
