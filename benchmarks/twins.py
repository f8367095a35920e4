"""Our networks against torchvision's: time and memory of forward plus backward, a ratio per name.

    python benchmarks/twins.py                                 # all names that torchvision has too, a few minutes
    python benchmarks/twins.py --names resnet18 vgg11 --size 224 --batch 16 --rounds 20
    python benchmarks/twins.py --device cuda --size 224 --batch 64

Both networks are drawn from the same seed and are given the same images. Their steps take turns, the first of a round
by turns too, so that whatever else the machine does falls on both; the ratio of time is the median over the rounds of
ours / torchvision's. Below 1 ours is faster, or needs less.

Memory: on a GPU the most that a step had allocated; on the CPU, where nobody counts that, the bytes that forward keeps
for backward, each storage once.
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

TWINS = [name for name in list_models() if info(name).torchvision]
MEBIBYTE = 2**20


def pair(name: str, device: torch.device) -> tuple[nn.Module, nn.Module]:
    """Ours and torchvision's, in training."""
    torch.manual_seed(0)
    ours = create_model(name)
    torch.manual_seed(0)
    more = {"aux_logits": False, "init_weights": True} if name == "googlenet" else {}
    theirs = torchvision.models.get_model(info(name).torchvision, **more)
    return ours.to(device).train(), theirs.to(device).train()


def step_of(net: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> Callable[[], None]:
    """Forward plus backward."""

    def step() -> None:
        net.zero_grad()
        F.cross_entropy(net(images), labels).backward()

    return step


def seconds(step: Callable[[], None], device: torch.device) -> float:
    """Of one step."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def memory(net: nn.Module, step: Callable[[], None], device: torch.device) -> int:
    """Bytes: on a GPU the peak of a step above what the network holds before; on the CPU what is kept for backward."""
    net.zero_grad()
    if device.type == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        return torch.cuda.max_memory_allocated() - before
    kept = {p.untyped_storage().data_ptr(): 0 for p in (*net.parameters(), *net.buffers())}  # there all the time

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept.setdefault(storage.data_ptr(), storage.nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        step()
    return sum(kept.values())


def compare(name: str, *, batch: int, size: int, rounds: int, device: torch.device) -> tuple[float, float, int, int]:
    """Median seconds of ours and of the ratio, and bytes of ours and torchvision's."""
    nets = pair(name, device)
    images = torch.randn(batch, 3, size, size, device=device)
    labels = torch.arange(batch, device=device)
    steps = [step_of(net, images, labels) for net in nets]
    ours, theirs = (memory(net, step, device) for net, step in zip(nets, steps, strict=True))  # and they warm up
    times = []
    for i in range(rounds):
        turn = (0, 1) if i % 2 == 0 else (1, 0)
        took = {which: seconds(steps[which], device) for which in turn}
        times.append((took[0], took[0] / took[1]))
    mine, ratio = (statistics.median(column) for column in zip(*times, strict=True))
    return mine, ratio, ours, theirs


def report(names: list[str], *, batch: int, size: int, rounds: int, device: torch.device) -> None:
    """Print one table, a row when it is measured."""
    machine = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"Forward plus backward of {batch} images of {size} x {size}, {machine}, torch {torch.__version__},")
    print(f"torchvision {torchvision.__version__}; medians of {rounds} rounds, ours / torchvision's:\n")
    print("| name | time | memory | ours, ms | ours, MiB |\n|---|---|---|---|---|")
    ratios = []
    for name in names:
        mine, ratio, ours, theirs = compare(name, batch=batch, size=size, rounds=rounds, device=device)
        ratios.append((ratio, ours / theirs))
        cells = f"{ratio:.3f} | {ours / theirs:.3f} | {1000 * mine:.0f} | {ours / MEBIBYTE:.1f}"
        print(f"| {name} | {cells} |", flush=True)
    time_ratio, memory_ratio = (statistics.geometric_mean(column) for column in zip(*ratios, strict=True))
    print(f"| **geometric mean** | **{time_ratio:.3f}** | **{memory_ratio:.3f}** | | |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--names", nargs="+", default=TWINS, choices=TWINS, metavar="NAME")
    parser.add_argument("--batch", type=int, default=4, help="images per step (default %(default)s)")
    parser.add_argument("--size", type=int, default=96, help="side of the images (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=10, help="steps of each network (default %(default)s)")
    parser.add_argument("--device", type=torch.device, default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    report(arguments.names, **{key: value for key, value in vars(arguments).items() if key != "names"})
