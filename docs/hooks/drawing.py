"""Drawings of blocks and networks: the graph that torch.fx traces, laid out in rows, as SVG."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from html import escape
from itertools import pairwise

from torch import fx, nn

from cnnzoo.describe.trace import FUNCTION_KINDS, module_kind

LINE, ROW_GAP, COLUMN_GAP, PADDING, CHARACTER = 16, 22, 18, 10, 6.6
"""In pixels: height of a line, space between boxes, space beside a text, and width of a character."""
MERGED_KINDS = ("batch norm", "relu", "tanh", "sigmoid", "LRN", "dropout")
"""Layers that are written into the box of the layer before them."""
VIEWS = ("flatten", "getattr", "getitem", "size")
"""Functions that are not drawn."""
MAX_LAYERS = 4
"""A block within a block is drawn layer by layer if it has no more layers than this."""
SWEEPS = 12


@dataclass(eq=False)
class Box:
    """A layer with those that are merged into it, and the boxes of its inputs. A bend of a connection has no lines."""

    lines: list[str] = field(default_factory=list)
    inputs: list[Box] = field(default_factory=list)
    x: float = 0.0
    """The center, in pixels."""
    y: float = 0.0
    """The upper side, in pixels."""
    bend: float = 0.0
    """The height of a bend, which is that of its row."""

    @property
    def width(self) -> float:
        return max((CHARACTER * len(line) for line in self.lines), default=-PADDING) + 2 * PADDING

    @property
    def height(self) -> float:
        return LINE * len(self.lines) + PADDING if self.lines else self.bend


class _Tracer(fx.Tracer):
    """Traces the layers of a module; large blocks within it stay whole."""

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        leaves = _leaves(module)
        return leaves == [module] or (len(leaves) > MAX_LAYERS and type(module) is not nn.Sequential)


def draw(module: nn.Module, title: str) -> str:
    """The SVG of a module; `title` describes it to screen readers."""
    boxes = _trace(module.eval())
    rows = _rows(boxes)
    _place(rows)
    return _svg([box for row in rows for box in row], title)


def _trace(module: nn.Module) -> list[Box]:
    """The boxes of a module, in the order of execution."""
    parameters = inspect.signature(module.forward).parameters.values()
    defaults = {
        parameter.name: parameter.default for parameter in parameters if parameter.default is not parameter.empty
    }
    graph = _Tracer().trace(module, concrete_args=defaults)
    box_of: dict[fx.Node, Box] = {}
    for node in graph.nodes:
        inputs = list(dict.fromkeys(box_of[source] for source in node.all_input_nodes if source in box_of))
        lines = _lines(module, node) if node.users else []
        if lines and len(inputs) == 1 and _is_merged(lines, node):
            inputs[0].lines = [*inputs[0].lines[:1], " + ".join([*inputs[0].lines[1:], *lines])]
            box_of[node] = inputs[0]
        elif lines:
            box_of[node] = Box(lines, inputs)
        elif inputs:
            box_of[node] = inputs[0]
    return list(dict.fromkeys(box_of.values()))


def _leaves(module: nn.Module) -> list[nn.Module]:
    return [leaf for leaf in module.modules() if not any(True for _ in leaf.children())]


def _is_merged(lines: list[str], node: fx.Node) -> bool:
    (source,) = node.all_input_nodes
    return lines[0].startswith(MERGED_KINDS) and len(source.users) == 1 and source.op != "placeholder"


def _lines(module: nn.Module, node: fx.Node) -> list[str]:
    """The text of a node; empty for a node without a box of its own."""
    if node.op == "placeholder":
        return [] if node.args else ["input"]
    if node.op == "call_function" or node.op == "call_method":
        name = (node.target if isinstance(node.target, str) else node.target.__name__).strip("_")  # type: ignore[union-attr]
        return [] if name in VIEWS else [FUNCTION_KINDS.get(name, name)]
    if node.op != "call_module":
        return []
    layer = module.get_submodule(str(node.target))
    if isinstance(layer, nn.AdaptiveAvgPool2d):
        return ["global avg pool" if layer.output_size in (1, (1, 1)) else "avg pool"]
    kinds = [module_kind(leaf) for leaf in _leaves(layer) if not isinstance(leaf, nn.Identity | nn.Flatten)]
    kinds = [kind for kind in kinds if kind != "dropout 0"]
    if layer is _leaves(layer)[0]:
        return kinds
    return [type(layer).__name__, ", ".join(kind for kind in kinds if not kind.startswith(MERGED_KINDS))]


def _rows(boxes: list[Box]) -> list[list[Box]]:
    """The boxes by their longest path from the input, with a bend in each row that a connection passes."""
    row_of: dict[Box, int] = {}
    for box in boxes:
        row_of[box] = 1 + max((row_of[source] for source in box.inputs), default=-1)
    rows: list[list[Box]] = [[] for _ in range(1 + max(row_of.values()))]
    for box in boxes:
        rows[row_of[box]].append(box)
    for box in boxes:
        for position, source in enumerate(box.inputs):
            for row in range(row_of[source] + 1, row_of[box]):
                source = Box(inputs=[source])
                rows[row].append(source)
            box.inputs[position] = source
    return rows


def _place(rows: list[list[Box]]) -> None:
    """Set the positions: each box as near as possible to the middle of its neighbors, without an overlap."""
    neighbors: dict[Box, list[Box]] = {box: list(box.inputs) for row in rows for box in row}
    for row in rows:
        for box in row:
            for source in box.inputs:
                neighbors[source].append(box)
        for position, box in enumerate(row):
            box.x = float(position)
    for sweep in range(SWEEPS):
        for row in rows if sweep % 2 == 0 else reversed(rows):
            wanted = {box: sum(n.x for n in neighbors[box]) / max(1, len(neighbors[box])) for box in row}
            row.sort(key=lambda box: wanted[box])
            for box in row:
                box.x = wanted[box]
            for left, right in pairwise(row):
                right.x = max(right.x, left.x + (left.width + right.width) / 2 + COLUMN_GAP)
            shift = sum(wanted[box] - box.x for box in row) / len(row)
            for box in row:
                box.x += shift
    y = 1.0
    for row in rows:
        height = max(box.height for box in row)
        for box in row:
            box.bend = height
            box.y = y + (height - box.height) / 2
        y += height + ROW_GAP


def _svg(boxes: list[Box], title: str) -> str:
    left = min(box.x - box.width / 2 for box in boxes) - 1
    width = max(box.x + box.width / 2 for box in boxes) - left + 1
    height = max(box.y + box.height for box in boxes) + 1
    parts = []
    for box in boxes:
        for source in box.inputs:
            x1, y1, x2, y2 = source.x - left, source.y + source.height, box.x - left, box.y
            middle = (y1 + y2) / 2
            parts.append(
                f'<path d="M{x1:.1f} {y1:.1f}C{x1:.1f} {middle:.1f} {x2:.1f} {middle:.1f} {x2:.1f} {y2:.1f}"/>'
            )
        if not box.lines:
            parts.append(f'<path d="M{box.x - left:.1f} {box.y:.1f}v{box.height}"/>')
        else:
            x, y = box.x - left, box.y
            corner = f'x="{x - box.width / 2:.1f}" y="{y:.1f}"'
            parts.append(f'<rect {corner} width="{box.width:.1f}" height="{box.height}" rx="4"/>')
            for number, line in enumerate(box.lines):
                baseline = y + PADDING / 2 + LINE * (number + 0.75)
                parts.append(f'<text x="{x:.1f}" y="{baseline:.1f}">{escape(line)}</text>')
    return (
        f'<svg class="drawing" role="img" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}">'
        f"<title>{escape(title)}</title>{''.join(parts)}</svg>"
    )
