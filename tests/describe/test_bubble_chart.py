"""The bubble chart of the zoo: the file, the names and their positions."""

import json
import os
import subprocess
import sys
from itertools import combinations

import pytest
from PIL import Image

from cnnzoo.describe import bubble_chart
from cnnzoo.errors import UserError
from tests.helpers import ROOT


def test_save_chart_writes_png(rows, tmp_path):
    path = tmp_path / "zoo.png"
    bubble_chart.save_chart(path, rows)
    image = Image.open(path).convert("RGB")
    assert image.size == (1950, 1350)
    assert len(image.getcolors(maxcolors=image.width * image.height)) > 100


def test_build_figure_labels_do_not_overlap(rows):
    figure = bubble_chart.build_figure(rows)
    (axes,) = figure.axes
    texts = [text for text in axes.texts if text.get_text()]
    expected = [row["name"] for row in rows if row["measured_on"].startswith("ImageNet")]
    assert sorted(text.get_text() for text in texts) == sorted(expected)
    assert "resnet50" in expected
    assert "resnet20" not in expected
    frame = axes.get_window_extent()
    boxes = {text.get_text(): text.get_window_extent() for text in texts}
    for (name1, box1), (name2, box2) in combinations(boxes.items(), 2):
        assert not box1.overlaps(box2), (name1, name2)
    for name, box in boxes.items():
        assert frame.x0 <= box.x0 < box.x1 <= frame.x1, name
        assert frame.y0 <= box.y0 < box.y1 <= frame.y1, name


def test_save_chart_without_matplotlib_is_an_error(rows, monkeypatch, tmp_path):
    for module in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match=r'zoo\.png needs matplotlib: type pip install "cnnzoo\[plot\]"$'):
        bubble_chart.save_chart(tmp_path / "zoo.png", rows)


@pytest.mark.filterwarnings("error")
def test_labels_do_not_move_with_another_dpi(rows, tmp_path):
    figure = bubble_chart.build_figure(rows)
    positions = []
    for dpi in (150, 72):
        figure.set_dpi(dpi)
        figure.draw_without_rendering()
        (axes,) = figure.axes
        (text,) = [text for text in axes.texts if text.get_text() == "resnet50"]
        box, frame = text.get_window_extent(), axes.get_window_extent()
        positions.append([(box.x0 - frame.x0) / frame.width, (box.y0 - frame.y0) / frame.height])
    assert positions[0] == pytest.approx(positions[1], abs=0.002)
    bubble_chart.save_chart(tmp_path / "zoo.pdf", rows)


def test_save_chart_ignores_the_backend_and_the_home(rows, tmp_path):
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    script = "import json; from pathlib import Path; from cnnzoo.describe.bubble_chart import save_chart; "
    script += "save_chart(Path('zoo.png'), json.loads(Path('rows.json').read_text()))"
    variables = {"MPLBACKEND": "nosuch", "HOME": "/proc", "XDG_CACHE_HOME": "/proc", "PYTHONPATH": str(ROOT)}
    environment = {name: value for name, value in os.environ.items() if name != "MPLCONFIGDIR"} | variables
    process = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert (process.returncode, process.stdout + process.stderr) == (0, "")
    assert (tmp_path / "zoo.png").stat().st_size > 0
