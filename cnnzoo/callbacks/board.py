"""What TensorBoard shows besides curves: the first training batch, the graph."""

import logging
import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

log = logging.getLogger(__name__)


def writers(trainer: Trainer) -> list[SummaryWriter]:
    """The TensorBoard writers of this process: none without such a logger, and none but on the first rank."""
    if not trainer.is_global_zero:
        return []
    return [logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]


class FirstBatch(Callback):
    """Writes the first training batch as the network gets it, augmented, as a grid with the class under each image."""

    def __init__(self, most: int = 64) -> None:
        self.most = most

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Write the grid, once."""
        if trainer.global_step or batch_idx:
            return
        data = trainer.datamodule  # type: ignore[attr-defined]
        for writer in writers(trainer):
            images, labels = (part[: self.most].cpu() for part in batch)
            pixels = images.float() * torch.tensor(data.settled_std).view(-1, 1, 1) + torch.tensor(
                data.settled_mean
            ).view(-1, 1, 1)
            picture = captioned_grid(pixels, [data.classes[label] for label in labels.tolist()])
            writer.add_image("train/first_batch", picture, 0, dataformats="HWC")


class Graph(Callback):
    """Writes the network's graph after the first step, traced in evaluation mode on the first image of the batch.

    Tracing densenet121, the slowest of the zoo, takes about 3 seconds, resnet18 half a second.
    """

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write the graph, once; a network that cannot be traced has none, and training goes on."""
        if batch_idx or trainer.current_epoch or trainer.global_step > 1:
            return
        if hasattr(pl_module.net, "unshard"):
            return  # sharded: no rank has the whole of it
        for writer in writers(trainer):
            net: Any = pl_module.net
            compiled, net._compiled_call_impl = net._compiled_call_impl, None  # the plain network is what is drawn
            net.eval()
            try:
                with warnings.catch_warnings(), torch.no_grad():
                    warnings.simplefilter("ignore")  # about tracing: nothing the person could do anything about
                    writer.add_graph(net, batch[0][:1].float())
            except RuntimeError as error:
                log.info("no graph in TensorBoard: %s", str(error).splitlines()[0])
            finally:
                net.train()
                net._compiled_call_impl = compiled


def captioned_grid(images: Tensor, captions: Sequence[str], *, side: int = 64) -> np.ndarray:
    """`(N, C, H, W)` in 0 to 1 -> `(rows * (side + 14), columns * side, 3)` uint8: as square a grid as N allows.

    Small images are enlarged to `side` pixels without smoothing; a caption too long for its tile is cut.
    """
    pixels = (images.clamp(0, 1) * 255).round().byte().expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()
    side = max(side, pixels.shape[1])
    columns = math.ceil(math.sqrt(len(pixels)))
    rows = math.ceil(len(pixels) / columns)
    sheet = Image.new("RGB", (columns * side, rows * (side + 14)), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (image, caption) in enumerate(zip(pixels, captions, strict=True)):
        x, y = i % columns * side, i // columns * (side + 14)
        sheet.paste(Image.fromarray(image).resize((side, side), Image.Resampling.NEAREST), (x, y))
        while caption and draw.textlength(caption) > side - 4:
            caption = caption[:-1]
        draw.text((x + side / 2, y + side + 1), caption, fill="black", anchor="ma")
    return np.asarray(sheet)
