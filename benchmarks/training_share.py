"""Training on JPEGs from RAM as a share of training on a batch that never leaves the device, a row for each network.

    python benchmarks/training_share.py DIR                                      # a folder with one folder per class
    python benchmarks/training_share.py DIR --device cuda --batch 128            # bf16, channels last
    python benchmarks/training_share.py DIR --loaders torch --cache decoded alexnet resnet50

Random-resized crops of 224 pixels, flipped, from the encoded cache, through what `train.py` would compose. A share of 1
means that data costs nothing. All ways of a network take turns, `--rounds` times; medians of each round's share.
"""

import argparse
import sys
from pathlib import Path
from statistics import median

import hydra
import pytorch_lightning as pl
import torch
from omegaconf import DictConfig

sys.path.insert(0, str(Path(__file__).parent.parent))

from cnnzoo import cli, info
from cnnzoo.benchmark.measure import measure_headspace, measure_training
from cnnzoo.errors import UserError
from cnnzoo.training import train

NETS = ("alexnet", "resnet18", "resnet50", "vgg16", "googlenet", "densenet121", "squeezenet1_1")


def composed(net: str, loader: str, args: argparse.Namespace) -> DictConfig:
    """The configuration of `benchmark.py`, whose trainer leaves nothing behind."""
    words = [
        f"model={info(net).family}",
        f"model.name={net}",
        "data=folder",
        f"data.root={args.folder}",
        "data.image_size=224",
        f"data.batch_size={args.batch}",
        f"data.cache.mode={args.cache}",
        "augment=imagenet",
        f"loader={loader}",
        f"trainer={'gpu' if args.device == 'cuda' else 'cpu'}",
    ]
    prepared, _ = cli.prepare(words, config="benchmark", help_text="")
    with hydra.initialize_config_dir(str(cli.CONF), version_base="1.3"):
        return hydra.compose("benchmark", overrides=prepared)


def shares(net: str, args: argparse.Namespace) -> tuple[float, dict[str, float]]:
    """Images per second on a held batch, and each loader's share of it."""
    cfg = composed(net, args.loaders[0], args)
    train.seed_everything(cfg.seed)
    data = cli.instantiate(cfg.data, "data")
    module, input_spec = train.build_network(cfg.model, data)
    optimizer = cli.instantiate(cfg.optimizer, "optimizer")
    classifier = train.build_classifier(module, input_spec, data, optimizer=optimizer, scheduler=None, cfg=cfg)

    def trainers(*callbacks: pl.Callback) -> pl.Trainer:
        return cli.instantiate(cfg.trainer, "trainer", callbacks=list(callbacks))

    loaders = {name: cli.instantiate(composed(net, name, args).loader, "loader") for name in args.loaders}
    data.setup("fit")
    heads: list[float] = []
    found: dict[str, list[float]] = {name: [] for name in loaders}
    measure_headspace(data, classifier, trainers, args.seconds)  # the first one is slower: memory is still to be had
    for _ in range(args.rounds):
        head = measure_headspace(data, classifier, trainers, args.seconds)
        heads.append(head)
        for name, loader in loaders.items():
            rate, _ = measure_training(data.variant(loader=loader), classifier, trainers, args.seconds)
            found[name].append(rate / head)
    data.teardown()
    return median(heads), {name: median(each) for name, each in found.items()}


def main() -> None:
    """Read the command line, measure, print a row as soon as it is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("nets", nargs="*", default=NETS)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--cache", choices=("none", "encoded", "decoded"), default="encoded")
    parser.add_argument("--loaders", nargs="+", choices=("torch", "dali"), default=["torch", "dali"])
    parser.add_argument("--seconds", type=float, default=4.0, help="of each reading, after warming up")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_intermixed_args()
    where = torch.cuda.get_device_name(0) if args.device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"{where}, torch {torch.__version__}, batches of {args.batch}, cache {args.cache}\n")
    print(f"| network | held batch, images/s | {' | '.join(f'loader={name}' for name in args.loaders)} |")
    print("|---" * (2 + len(args.loaders)) + "|")
    for net in args.nets:
        head, found = shares(net, args)
        print(f"| {net} | {head:,.1f} | {' | '.join(f'{share:.3f}' for share in found.values())} |", flush=True)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
