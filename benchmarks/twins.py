"""Our networks compared with those of torchvision and timm: time and memory of a forward plus backward pass.

    python benchmarks/twins.py                                 # all networks that one of them has too, a few minutes
    python benchmarks/twins.py --peer torchvision              # only torchvision's; or only timm's
    python benchmarks/twins.py --names resnet18 vgg11 --size 224 --batch 16 --rounds 20
    python benchmarks/twins.py --device cuda --size 224 --batch 64

All networks are built from the same seed and get the same images. Each round runs one step of each, every second round
in reverse order, so that other load on the machine affects all of them. The ratio of times is the median over the
rounds of ours / the other's; below 1 our network is faster or needs less memory. A network without a twin has no ratio.

Memory: on a GPU the peak of the allocated memory in a step. On the CPU, which has no such counter, the bytes that the
forward pass saves for the backward pass; each storage is counted once.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec

import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from cnnzoo.models import create_model, info, list_models

PEERS = ("torchvision", "timm")
MEBIBYTE = 2**20


@dataclass(frozen=True)
class Comparison:
    """Our network in seconds and bytes per step, and for each peer the ratios of times and of bytes, ours / its."""

    seconds: float
    memory: int
    ratios: dict[str, tuple[float, float]]


def has_twin(peer: str, name: str) -> bool:
    """Whether a peer has our network of this name."""
    if peer == "torchvision":
        return info(name).torchvision is not None
    import timm  # only for --peer timm

    return bool(timm.is_model(name))


def build_twin(peer: str, name: str) -> nn.Module:
    """A peer's network, with random weights."""
    net: nn.Module
    if peer == "timm":
        import timm  # only for --peer timm

        net = timm.create_model(name)
    else:
        arguments = {"aux_logits": False, "init_weights": True} if name == "googlenet" else {}
        net = torchvision.models.get_model(info(name).torchvision, **arguments)
    return net


def build_networks(name: str, peers: Sequence[str], device: torch.device) -> list[nn.Module]:
    """Our network and that of each peer, in training mode."""
    nets: list[nn.Module] = []
    for peer in (None, *peers):
        torch.manual_seed(0)
        net = create_model(name) if peer is None else build_twin(peer, name)
        nets.append(net.to(device).train())
    return nets


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


def compare(name: str, peers: Sequence[str], *, batch: int, size: int, rounds: int, device: torch.device) -> Comparison:
    """Our network compared with those of `peers`, all of which have it."""
    nets = build_networks(name, peers, device)
    images = torch.randn(batch, 3, size, size, device=device)
    labels = torch.arange(batch, device=device)
    steps = [make_step(net, images, labels) for net in nets]
    memory = [step_memory(net, step, device) for net, step in zip(nets, steps, strict=True)]  # and warm-up
    times: list[list[float]] = [[] for _ in steps]
    for i in range(rounds):
        indices = range(len(steps))
        for index in indices if i % 2 == 0 else reversed(indices):
            times[index].append(step_seconds(steps[index], device))
    ratios = {
        peer: (
            statistics.median(ours / other for ours, other in zip(times[0], times[index], strict=True)),
            memory[0] / memory[index],
        )
        for index, peer in enumerate(peers, 1)
    }
    return Comparison(statistics.median(times[0]), memory[0], ratios)


def report(
    names: Sequence[str], peers: Sequence[str], *, batch: int, size: int, rounds: int, device: torch.device
) -> None:
    """Print the table, each row as soon as it is measured."""
    device_name = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    versions = ", ".join(f"{package} {version(package)}" for package in ("torch", *peers))
    print(f"Forward plus backward pass of {batch} images of {size} x {size}, {device_name}, {versions};")
    print(f"medians of {rounds} rounds, ours divided by the other's:\n")
    print(f"| name |{''.join(f' time / {peer} | memory / {peer} |' for peer in peers)} ours, ms | ours, MiB |")
    print("|---" * (3 + 2 * len(peers)) + "|")
    ratios: dict[str, list[tuple[float, float]]] = {peer: [] for peer in peers}
    for name in names:
        twins = [peer for peer in peers if has_twin(peer, name)]
        result = compare(name, twins, batch=batch, size=size, rounds=rounds, device=device)
        for peer in twins:
            ratios[peer].append(result.ratios[peer])
        pairs = (result.ratios.get(peer) for peer in peers)
        cells = "".join(" | |" if pair is None else f" {pair[0]:.3f} | {pair[1]:.3f} |" for pair in pairs)
        print(f"| {name} |{cells} {1000 * result.seconds:.0f} | {result.memory / MEBIBYTE:.1f} |", flush=True)
    means = [statistics.geometric_mean(column) for peer in peers for column in zip(*ratios[peer], strict=True)]
    print(f"| **geometric mean** |{''.join(f' **{mean:.3f}** |' for mean in means)} | |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", choices=(*PEERS, "both"), default="both")
    parser.add_argument("--names", nargs="+", metavar="NAME", help="by default all that a peer has too")
    parser.add_argument("--batch", type=int, default=4, help="images per step (default %(default)s)")
    parser.add_argument("--size", type=int, default=96, help="side of the images (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=10, help="steps of each network (default %(default)s)")
    parser.add_argument("--device", type=torch.device, default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    peers = PEERS if args.peer == "both" else (args.peer,)
    if "timm" in peers and find_spec("timm") is None:
        parser.error("timm is not installed; type pip install timm, or --peer torchvision")
    shared = [name for name in list_models() if any(has_twin(peer, name) for peer in peers)]
    if unknown := set(args.names or ()) - set(shared):
        parser.error(f"--names: no twin in {' or '.join(peers)}: {', '.join(sorted(unknown))}")
    used = [peer for peer in peers if any(has_twin(peer, name) for name in args.names or shared)]
    report(args.names or shared, used, batch=args.batch, size=args.size, rounds=args.rounds, device=args.device)


if __name__ == "__main__":
    main()
