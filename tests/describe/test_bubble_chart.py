"""The picture of the zoo: written, complete, legible."""

import sys
from itertools import combinations

import pytest
from PIL import Image

from cnnzoo.describe import bubble_chart
from cnnzoo.describe.show import zoo_rows
from cnnzoo.errors import UserError


@pytest.fixture(scope="module")
def zoo():
    """The rows that the job draws."""
    return zoo_rows()


def test_the_picture_is_written(zoo, tmp_path):
    path = tmp_path / "zoo.png"
    bubble_chart.save_chart(path, zoo)
    image = Image.open(path).convert("RGB")
    assert image.size == (1950, 1350)
    assert len(image.getcolors(maxcolors=image.width * image.height)) > 100


def test_the_picture_names_every_network_and_no_name_hides_another(zoo):
    figure = bubble_chart.build_figure(zoo)
    (axes,) = figure.axes
    texts = [text for text in axes.texts if text.get_text()]
    known = [row["name"] for row in zoo if row["measured_on"].startswith("ImageNet")]
    assert sorted(text.get_text() for text in texts) == sorted(known)
    assert "resnet50" in known
    assert "resnet20" not in known
    frame = axes.get_window_extent()
    boxes = {text.get_text(): text.get_window_extent() for text in texts}
    for (one, box), (other, another) in combinations(boxes.items(), 2):
        assert not box.overlaps(another), (one, other)
    for name, box in boxes.items():
        assert frame.x0 <= box.x0 < box.x1 <= frame.x1, name
        assert frame.y0 <= box.y0 < box.y1 <= frame.y1, name


def test_a_picture_without_matplotlib(zoo, monkeypatch, tmp_path):
    for module in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match=r"zoo\.png needs matplotlib: pip install matplotlib"):
        bubble_chart.save_chart(tmp_path / "zoo.png", zoo)


@pytest.mark.filterwarnings("error")
def test_labels_stay_where_they_are_in_a_picture_of_other_pixels(zoo, tmp_path):
    figure = bubble_chart.build_figure(zoo)
    places = []
    for dpi in (150, 72):
        figure.set_dpi(dpi)
        figure.draw_without_rendering()
        (axes,) = figure.axes
        (text,) = [text for text in axes.texts if text.get_text() == "resnet50"]
        box, frame = text.get_window_extent(), axes.get_window_extent()
        places.append([(box.x0 - frame.x0) / frame.width, (box.y0 - frame.y0) / frame.height])
    assert places[0] == pytest.approx(places[1], abs=0.002)
    bubble_chart.save_chart(tmp_path / "zoo.pdf", zoo)
