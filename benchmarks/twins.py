"""Our networks compared with torchvision's: time and memory of a forward plus backward pass.

    python benchmarks/twins.py                                 # all networks that torchvision has too, a few minutes
    python benchmarks/twins.py --names resnet18 vgg11 --size 224 --batch 16 --rounds 20
    python benchmarks/twins.py --device cuda --size 224 --batch 64

Both networks are built from the same seed and get the same images. Each round runs one step of both, in alternating
order, so that other load on the machine affects both. The ratio of times is the median over the rounds of ours /
torchvision's; below 1 our network is faster or needs less memory.

Memory: on a GPU the peak of the allocated memory in a step. On the CPU, which has no such counter, the bytes that the
forward pass saves for the backward pass; each storage is counted once.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from cnnzoo.models import create_model, info, list_models

NAMES = [name for name in list_models() if info(name).torchvision]
MEBIBYTE = 2**20


def build_pair(name: str, device: torch.device) -> tuple[nn.Module, nn.Module]:
    """Our network and torchvision's, in training mode."""
    torch.manual_seed(0)
    ours = create_model(name)
    torch.manual_seed(0)
    arguments = {"aux_logits": False, "init_weights": True} if name == "googlenet" else {}
    reference = torchvision.models.get_model(info(name).torchvision, **arguments)
    return ours.to(device).train(), reference.to(device).train()


def make_step(net: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> Callable[[], None]:
    """A function that runs a forward plus backward pass."""

    def step() -> None:
        net.zero_grad()
        F.cross_entropy(net(images), labels).backward()

    return step


def step_seconds(step: Callable[[], None], device: torch.device) -> float:
    """Seconds of one step."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def step_memory(net: nn.Module, step: Callable[[], None], device: torch.device) -> int:
    """Bytes that a step needs in addition to the network; see the docstring of the module."""
    net.zero_grad()
    if device.type == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        return torch.cuda.max_memory_allocated() - before
    storages = {p.untyped_storage().data_ptr(): 0 for p in (*net.parameters(), *net.buffers())}  # not counted

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        storages.setdefault(storage.data_ptr(), storage.nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        step()
    return sum(storages.values())


def compare(name: str, *, batch: int, size: int, rounds: int, device: torch.device) -> tuple[float, float, int, int]:
    """The median seconds of our network and median ratio of times, then bytes of our network and of torchvision's."""
    nets = build_pair(name, device)
    images = torch.randn(batch, 3, size, size, device=device)
    labels = torch.arange(batch, device=device)
    steps = [make_step(net, images, labels) for net in nets]
    ours, reference = (step_memory(net, step, device) for net, step in zip(nets, steps, strict=True))  # and warm-up
    results = []
    for i in range(rounds):
        order = (0, 1) if i % 2 == 0 else (1, 0)
        times = {index: step_seconds(steps[index], device) for index in order}
        results.append((times[0], times[0] / times[1]))
    our_seconds, ratio = (statistics.median(column) for column in zip(*results, strict=True))
    return our_seconds, ratio, ours, reference


def report(names: list[str], *, batch: int, size: int, rounds: int, device: torch.device) -> None:
    """Print the table, each row as soon as it is measured."""
    device_name = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"Forward plus backward pass of {batch} images of {size} x {size}, {device_name}, torch {torch.__version__},")
    print(f"torchvision {torchvision.__version__}; medians of {rounds} rounds, ours divided by torchvision's:\n")
    print("| name | time | memory | ours, ms | ours, MiB |\n|---|---|---|---|---|")
    ratios = []
    for name in names:
        our_seconds, ratio, ours, reference = compare(name, batch=batch, size=size, rounds=rounds, device=device)
        ratios.append((ratio, ours / reference))
        cells = f"{ratio:.3f} | {ours / reference:.3f} | {1000 * our_seconds:.0f} | {ours / MEBIBYTE:.1f}"
        print(f"| {name} | {cells} |", flush=True)
    time_ratio, memory_ratio = (statistics.geometric_mean(column) for column in zip(*ratios, strict=True))
    print(f"| **geometric mean** | **{time_ratio:.3f}** | **{memory_ratio:.3f}** | | |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--names", nargs="+", default=NAMES, choices=NAMES, metavar="NAME")
    parser.add_argument("--batch", type=int, default=4, help="images per step (default %(default)s)")
    parser.add_argument("--size", type=int, default=96, help="side of the images (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=10, help="steps of each network (default %(default)s)")
    parser.add_argument("--device", type=torch.device, default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    report(arguments.names, **{key: value for key, value in vars(arguments).items() if key != "names"})
