"""The times that cnn-benchmarks published in 2016 and 2017, for the comparison with this machine.

Source: Justin Johnson, https://github.com/jcjohnson/cnn-benchmarks (MIT License, see published_NOTICE.txt). Each time
is the mean of ten passes in Torch7 in float32, for batches of 16 images of 224 x 224 pixels.
"""

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

CPU, GPU, GPU_WITHOUT_CUDNN = "CPU", "GPU", "GPU, no cuDNN"
COLUMNS = (CPU, GPU, GPU_WITHOUT_CUDNN)
PUBLISHED_DEVICES = {
    CPU: ("CPU: Dual Xeon E5-2630 v3", "None"),
    GPU: ("Pascal Titan X", "5.1.05"),
    GPU_WITHOUT_CUDNN: ("Pascal Titan X", "None"),
}
"""Device and version of cuDNN of the published times that are shown."""
PUBLISHED_NAMES = {
    "alexnet": "AlexNet",
    "googlenet": "Inception-V1",
    "vgg16": "VGG-16",
    "vgg19": "VGG-19",
    "resnet18": "ResNet-18",
    "resnet34": "ResNet-34",
    "resnet50": "ResNet-50",
    "resnet101": "ResNet-101",
    "resnet152": "ResNet-152",
}
"""Our names of the networks in the file."""
OTHER_NAMES = {"alexnet_paper": "AlexNet", "googlenet_paper": "Inception-V1"}
"""Closer to what was measured: AlexNet with groups and response normalization, and GoogLeNet without batch norm."""
BATCH_SIZE, IMAGE_SIZE = 16, 224


@dataclass(frozen=True)
class PublishedTime:
    """Milliseconds of the passes for one batch."""

    forward_ms: float
    backward_ms: float
    total_ms: float


@cache
def published_time(name: str, column: str) -> PublishedTime | None:
    """The published time of the network `name` for one of `COLUMNS`; None if there is none."""
    model = (PUBLISHED_NAMES | OTHER_NAMES).get(name)
    device, cudnn = PUBLISHED_DEVICES[column]
    with (Path(__file__).parent / "published_times.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if (row["model"], row["device"], row["cudnn"]) == (model, device, cudnn):
                return PublishedTime(*(float(row[f"{name}_ms"]) for name in ("forward", "backward", "total")))
    return None
