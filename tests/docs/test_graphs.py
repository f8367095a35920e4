"""docs/graphs.md: its code runs in order, and what it computes in several ways agrees."""

import numpy as np
import pytest
import torch

from tests.helpers import ROOT
from tests.helpers.docs import read_blocks

BLOCKS = list(read_blocks(ROOT / "docs/graphs.md"))
START_OF_STATIC = next(n for n, block in enumerate(BLOCKS) if block.text == "## Compiled")


def execute(blocks, names):
    for block in blocks:
        if block.language == "python":
            exec(compile(block.text, str(block), "exec"), names)
    return names


@pytest.fixture(scope="module")
def names():
    """The names that the page defines before it compiles anything."""
    return execute(BLOCKS[:START_OF_STATIC], {"__name__": "page"})


def test_gradients_by_hand_equal_autograd(names):
    for name in "xyz":
        np.testing.assert_allclose(names[f"{name}_torch"].grad, names[f"grad_{name}"], rtol=1e-12)


def test_three_trainings_end_with_the_same_weights(names):
    by_hand, *others = (names[f"train_{way}"](names["w1"], names["w2"]) for way in ("numpy", "autograd", "module"))
    for other in others:
        for ours, theirs in zip(by_hand, other, strict=True):
            np.testing.assert_allclose(torch.as_tensor(theirs).detach(), ours, rtol=1e-9, atol=1e-12)
    assert by_hand[2] < 0.02  # the loss; it began at about 1.5


def test_dynamic_graph_holds_the_chosen_layer_only(names):
    choose, bright = names["choose"], names["bright"]
    assert choose.bright.weight.grad is not None
    assert choose.dark.weight.grad is None
    assert torch.equal(choose(-bright), choose.dark(-bright))
    assert names["repeat"](bright).abs().max() <= 0.1 < names["repeat"].linear(bright).abs().max()


@pytest.mark.long
def test_static_graphs_equal_the_dynamic_ones(names, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = execute(BLOCKS[START_OF_STATIC:], dict(names))
    choose, repeat, bright = page["choose"], page["repeat"], page["bright"]
    assert torch._dynamo.explain(choose)(bright).graph_count == 2
    repeated = torch.export.load("repeat.pt2").module()
    for images in (bright, -bright, 3 * bright, torch.zeros_like(bright)):
        for static in (page["compiled"], page["static_choose"], page["choose_in_one_graph"], page["loaded"]):
            torch.testing.assert_close(static(images), choose(images))
        for static in (page["static_repeat"], page["repeat_in_one_graph"], repeated):
            torch.testing.assert_close(static(images), repeat(images))
    torch.compiler.reset()
    with pytest.raises(torch._dynamo.exc.Unsupported, match="Data-dependent branching"):
        torch.compile(choose, fullgraph=True)(bright)
    with pytest.raises(Exception, match="data-dependent"):
        torch.export.export(choose, (bright,))
