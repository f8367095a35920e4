"""Decides which images are kept in the GPU's memory and what transforms them there, on all ranks together."""

import logging
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import distributed

from cnnzoo.data.cache import available_memory
from cnnzoo.data.loaders.batch_builder import BatchBuilder
from cnnzoo.data.loaders.gpu import (
    BY_KERNEL,
    BY_TORCH,
    GpuDataset,
    first_line,
    needs_resizing,
    required_bytes,
    resident_datasets,
)
from cnnzoo.data.transforms.pixel_format import format_text, is_plain
from cnnzoo.runtime.formatting import format_bytes

ON_CPU = 0  # the level below BY_TORCH and BY_KERNEL

log = logging.getLogger(__name__)


class Placement(NamedTuple):
    """Where the images of a split are kept and transformed. Of several ranks' placements, the smallest one is used."""

    level: int  # ON_CPU, BY_TORCH or BY_KERNEL
    reason: str = ""  # why the level is not higher; empty if a higher one was not to be expected
    is_failure: bool = False  # whether it should have been higher


def place_images(
    builder: BatchBuilder, device: torch.device, budget: float, dataset: GpuDataset | None = None
) -> tuple[GpuDataset | None, Placement]:
    """Copy the images to the GPU if they are supported and fit, and check a few; the data set is None if one fails.

    budget: the fraction of the GPU's free memory that the images of all loaders may use.
    dataset: the images, if they are already there.
    """
    if not budget or not is_decoded(builder):
        return None, Placement(ON_CPU)
    problem = unsupported(builder)
    if problem is None and dataset is None:
        problem = _memory_problem(builder, device, budget)
    if problem is not None:
        return None, Placement(ON_CPU, problem)
    from cnnzoo.data.loaders.gpu_kernel import kernel_problem

    problem = kernel_problem(device)
    levels = [BY_KERNEL] if problem is None else []
    if not needs_resizing(builder):
        levels.append(BY_TORCH)
    try:
        dataset = dataset or (GpuDataset(builder, device) if levels else None)
    except Exception as error:  # out of memory, or an error of the driver
        return None, Placement(ON_CPU, f"they cannot be copied to the GPU: {first_line(error)}", is_failure=True)
    for level in levels:
        assert dataset is not None
        dataset.level = level
        failure = dataset.check()
        if failure is None:
            return dataset, Placement(level, problem or "", is_failure=problem is not None)
        problem = problem or failure
    return None, Placement(ON_CPU, problem or "", is_failure=True)


def log_placement(images: str, dataset: GpuDataset | None, placement: Placement) -> None:
    """Log one line about what `place_images` decided; nothing if the images are not decoded."""
    level = logging.WARNING if placement.is_failure else logging.INFO
    if dataset is not None:
        reason = f" instead of the kernel: {placement.reason}" if placement.is_failure else ""
        log.log(level, "%s: %s%s", images, dataset.describe(), reason)
    elif placement.reason:
        log.log(level, "%s: transformed on the CPU, not in the GPU's memory: %s", images, placement.reason)


def expected_placement(builder: BatchBuilder, device: torch.device, budget: float, *, otherwise: str) -> str:
    """What will probably build the batches, said before `place_images`; `otherwise` is what does it on the CPU."""
    split = builder.split
    if not budget or not (is_decoded(builder) or split.cache_decodes) or unsupported(builder) is not None:
        return otherwise
    limit = f"at most {budget:.0%} of its free {format_bytes(free_bytes(device))}"
    if not is_decoded(builder):  # before the cache is filled
        return f"images in the GPU's memory if the decoded cache fits ({limit}), otherwise {otherwise}"
    problem = _memory_problem(builder, device, budget)
    if problem is not None:
        return f"{otherwise}; the images stay in RAM, because {problem}"
    return f"images in the GPU's memory ({format_bytes(required_bytes(builder))}, {limit})"


def is_decoded(builder: BatchBuilder) -> bool:
    """Whether the images, or some of them, are in RAM as pixels."""
    split = builder.split
    return len(split) > 0 and (
        split.pixels is not None or (split.store is not None and split.store.channels is not None)
    )


def unsupported(builder: BatchBuilder) -> str | None:
    """Why `GpuDataset` does not support these images in RAM, or None if it does."""
    augment, store = builder.augment, builder.split.store
    if not is_plain(builder.channels, builder.bits):
        return f"they have {format_text(builder.channels, builder.bits)}"
    if builder.train and (augment.auto_augment is not None or any(augment.color_jitter or ())):
        return "augment.auto_augment and augment.color_jitter run on the CPU"
    if builder.train and augment.rotation:
        return "augment.rotation runs on the CPU"
    if store is not None and store.num_cached < len(builder.split):
        return "not all of them are in the cache"
    return None


def free_bytes(device: torch.device) -> int:
    """Free memory of the device, including what PyTorch's allocator has reserved but does not use."""
    if device.type != "cuda":
        return available_memory.available_bytes()
    reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + reserved


def _memory_problem(builder: BatchBuilder, device: torch.device, budget: float) -> str | None:
    used = sum(len(dataset.source) for dataset in resident_datasets if dataset.device == device)
    free, needed = free_bytes(device) + used, required_bytes(builder)
    if used + needed <= budget * free:
        return None
    others = f" beside {format_bytes(used)} of other images" if used else ""
    return (
        f"they need {format_bytes(needed)}{others}, more than loader.gpu_budget={budget:g} allows of the GPU's free "
        f"{format_bytes(free)}"
    )


def place_on_all_ranks(loaders: Iterable[Any], world_size: int) -> None:
    """Call `place_images` of the loaders that have it, such that all ranks use the smallest placement of any rank.

    All ranks must call this, with loaders of the same splits.
    """

    def agree(placement: Placement) -> Placement:
        placements: list[Any] = [None] * world_size
        distributed.all_gather_object(placements, placement)
        return min(placements)

    for loader in loaders:
        place = getattr(loader, "place_images", None)
        if place is not None:
            place(agree if world_size > 1 else None)
        elif world_size > 1:  # a rank with another loader for this split waits for this one
            agree(Placement(ON_CPU))
