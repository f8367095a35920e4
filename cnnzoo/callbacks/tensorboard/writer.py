"""Callbacks for the first training batch and the graph, and the TensorBoard helpers that all callbacks share."""

import logging
import warnings
from io import BytesIO
from itertools import compress
from typing import Any

import torch
from PIL import Image
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import TensorBoardLogger
from tensorboard.compat.proto.summary_pb2 import Summary
from torch import Tensor
from torch.nn import functional as F
from torch.utils.tensorboard import SummaryWriter

from cnnzoo.callbacks.tensorboard.drawing import Picture, draw_captioned_grid
from cnnzoo.checks import check_int

log = logging.getLogger(__name__)


def summary_writers(trainer: Trainer) -> list[SummaryWriter]:
    """The writers of the trainer's TensorBoard loggers; empty on all ranks but rank 0."""
    if not trainer.is_global_zero:
        return []
    return [logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]


def add_image(writer: SummaryWriter, tag: str, picture: Picture, step: int) -> None:
    """Like `writer.add_image`, but several times faster: no conversion of the uint8 pixels, and little compression."""
    file = BytesIO()
    Image.fromarray(picture).save(file, "PNG", compress_level=1)
    height, width, _ = picture.shape
    image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=file.getvalue())
    writer._get_file_writer().add_summary(Summary(value=[Summary.Value(tag=tag, image=image)]), step)


def escape_cell(text: str) -> str:
    """Text for a cell of a Markdown table."""
    return text.replace("|", "\\|")


def denormalize(images: Tensor, datamodule: Any) -> Tensor:
    """Images (N, C, H, W) as the network receives them -> values in 0 to 1, by the data module's mean and std.

    16-bit images, which often use only the lowest of their bits, are scaled so that the largest value becomes 1.
    """
    mean, std = (torch.tensor(stats).view(-1, 1, 1) for stats in (datamodule.resolved_mean, datamodule.resolved_std))
    values = images.float().cpu() * std + mean
    return values / values.max().clamp_min(1e-6) if getattr(datamodule, "bits", 8) == 16 else values


class FirstBatch(Callback):
    """Writes a grid of the first training batch, augmented, with the class or classes under each image.

    Images larger than 70 pixels keep their size; in TensorBoard, turn on "Show actual image size" to see it.
    """

    def __init__(self, max_images: int = 25) -> None:
        self.max_images = check_int("callbacks.first_batch.max_images", max_images, minimum=1)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.global_step or batch_idx:
            return
        datamodule = trainer.datamodule  # type: ignore[attr-defined]
        for writer in summary_writers(trainer):
            images, labels = (tensor[: self.max_images].cpu() for tensor in batch)
            multi_hot = labels if labels.ndim == 2 else F.one_hot(labels, len(datamodule.classes))
            captions = [", ".join(compress(datamodule.classes, row)) or "none" for row in multi_hot.tolist()]
            side = max(70, images.shape[-1])
            picture = draw_captioned_grid(denormalize(images, datamodule), captions, columns=5, side=side)
            add_image(writer, "train/first_batch", picture, 0)


class Graph(Callback):
    """Writes the network's graph after the first step, traced in eval mode on one image of the batch.

    Tracing takes half a second for resnet18, and about 3 seconds for densenet121, the slowest. If the network cannot be
    traced, training continues without a graph. Skipped when the weights are sharded.
    """

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx or trainer.current_epoch or trainer.global_step > 1:
            return
        if hasattr(pl_module.net, "unshard"):
            return  # sharded: no rank has all weights
        for writer in summary_writers(trainer):
            net: Any = pl_module.net
            compiled, net._compiled_call_impl = net._compiled_call_impl, None  # torch.compile's form has no graph
            net.eval()
            try:
                with warnings.catch_warnings(), torch.no_grad():
                    warnings.simplefilter("ignore")  # the tracer's warnings, about which a user can do nothing
                    writer.add_graph(net, batch[0][:1].to(pl_module.dtype))
            except RuntimeError as error:
                log.info("TensorBoard shows no graph: %s", str(error).splitlines()[0])
            finally:
                net.train()
                net._compiled_call_impl = compiled
