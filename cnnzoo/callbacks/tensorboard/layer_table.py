"""The network as a table among TensorBoard's texts."""

from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from cnnzoo.callbacks.tensorboard.writer import summary_writers
from cnnzoo.describe.tables import LEGEND, layer_rows, shape_text
from cnnzoo.describe.trace import Layer, trace_layers
from cnnzoo.models import create_model


class LayerTable(Callback):
    """Writes the table that `describe.py` shows, of this run's network and input, once, as the text `layers`.

    The network is built a second time, without numbers, and run on an image: 0.1 s for resnet18, 0.5 s for densenet121.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write it, unless the run began earlier."""
        if trainer.global_step:
            return
        for writer in summary_writers(trainer):
            metadata: Any = pl_module.metadata
            size, channels = metadata["preprocess"]["image_size"], metadata["preprocess"]["channels"]
            with torch.device("meta"):
                net = create_model(**metadata["model"])
            whole = trace_layers(net, (channels, size, size))
            writer.add_text("layers", markdown_table(metadata["model"]["name"], whole, (channels, size, size)), 0)


def markdown_table(name: str, whole: Layer, given: tuple[int, int, int]) -> str:
    """The table; `given` is the shape of the input."""
    depth = whole.page()
    lines = [
        f"**{name}** on {shape_text(given)}: {whole.parameters:,} parameters, "
        f"{whole.multiply_accumulates:,} multiply-accumulates, {whole.memory / 2**20:.1f} MiB put out for one image.",
        "",
        "| layer | | output | params | MACs | KiB |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for row in layer_rows(whole, depth):
        figures = [f"{row[name]:,}" if row[name] else "" for name in ("parameters", "multiply_accumulates")]
        memory = f"{row['memory_bytes'] / 1024:,.1f}" if row["memory_bytes"] else ""
        lines.append(f"| {' | '.join([row['layer'], row['kind'], row['output'], *figures, memory])} |")
    lines += ["", f"{LEGEND} params: parameters, MACs: multiply-accumulates, KiB: memory."]
    if depth < whole.depth:
        lines += ["", f"{depth} of {whole.depth} levels are opened; `describe.py` with `depth=all` opens the rest."]
    return "\n".join(lines)
