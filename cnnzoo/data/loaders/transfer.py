"""Copies batches to a GPU, one batch ahead of training."""

from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import torch

from cnnzoo.data.loaders.batch_builder import Batch

Transfer = tuple[Batch, torch.cuda.Event]


def prefetch_to_device(batches: Iterator[Batch], device: torch.device) -> Generator[Batch, None, None]:
    """Yield the batches on `device`, always one ahead: a thread waits for the next one, pins it and starts its copy.

    The thread uses `batches` until this generator is exhausted or closed. Close it before you use the source of
    `batches` for something else.
    """
    stream = torch.cuda.Stream(device)

    def transfer() -> Transfer | None:
        batch = next(batches, None)
        if batch is None:
            return None
        images, labels, bad_files = batch
        with torch.cuda.stream(stream):
            images = images.pin_memory().to(device, non_blocking=True)
            labels = labels.pin_memory().to(device, non_blocking=True)
            return Batch(images, labels, bad_files), stream.record_event()

    with ThreadPoolExecutor(1, thread_name_prefix="cnnzoo-loader-device") as executor:
        future: Future[Transfer | None] = executor.submit(transfer)
        while (transferred := future.result()) is not None:
            future = executor.submit(transfer)
            batch, copy_event = transferred
            current_stream = torch.cuda.current_stream(device)
            current_stream.wait_event(copy_event)
            for tensor in batch[:2]:
                tensor.record_stream(current_stream)  # its memory is not reused before this stream is done with it
            yield batch
