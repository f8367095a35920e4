"""What TensorBoard shows besides curves: the first training batch, the graph; and what all that write to it share."""

import logging
import warnings
from io import BytesIO
from typing import Any

import torch
from PIL import Image
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import TensorBoardLogger
from tensorboard.compat.proto.summary_pb2 import Summary
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from cnnzoo.callbacks.tensorboard.drawing import Picture, draw_captioned_grid
from cnnzoo.errors import UserError

log = logging.getLogger(__name__)


def summary_writers(trainer: Trainer) -> list[SummaryWriter]:
    """The TensorBoard writers of this process: none without such a logger, and none but on the first rank."""
    if not trainer.is_global_zero:
        return []
    return [logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]


def add_image(writer: SummaryWriter, tag: str, picture: Picture, step: int) -> None:
    """`writer.add_image`, several times as quick: with uint8 as it is, and little compression."""
    file = BytesIO()
    Image.fromarray(picture).save(file, "PNG", compress_level=1)
    height, width, _ = picture.shape
    image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=file.getvalue())
    writer._get_file_writer().add_summary(Summary(value=[Summary.Value(tag=tag, image=image)]), step)


def denormalize(images: Tensor, data: Any) -> Tensor:
    """(N, C, H, W) as the network gets them -> in 0 to 1, as they look; `data` knows mean and deviation."""
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (data.resolved_mean, data.resolved_std))
    return images.float().cpu() * std + mean


class FirstBatch(Callback):
    """Writes the first training batch as the network gets it, augmented, as a grid with the class under each image.

    Images of more than 70 pixels are shown as large as they are, which takes "Show actual image size" in TensorBoard.
    """

    def __init__(self, max_images: int = 25) -> None:
        if max_images < 1:
            raise UserError(f"callbacks.first_batch.max_images={max_images}: at least 1 image")
        self.max_images = max_images

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Write the grid, once."""
        if trainer.global_step or batch_idx:
            return
        data = trainer.datamodule  # type: ignore[attr-defined]
        for writer in summary_writers(trainer):
            images, labels = (part[: self.max_images].cpu() for part in batch)
            captions, side = [data.classes[label] for label in labels.tolist()], max(70, images.shape[-1])
            picture = draw_captioned_grid(denormalize(images, data), captions, columns=5, side=side)
            add_image(writer, "train/first_batch", picture, 0)


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
        for writer in summary_writers(trainer):
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
