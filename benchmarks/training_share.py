"""Speed of training on JPEGs from RAM, as a share of training on one batch that stays on the device.

    python benchmarks/training_share.py DIR                                      # a folder with one folder per class
    python benchmarks/training_share.py DIR --device cuda --batch 128            # bf16, channels last
    python benchmarks/training_share.py DIR --loaders torch --cache decoded alexnet resnet50

Random-resized crops of 224 pixels and flips, from the encoded cache, with the configuration of `train.py`. A share of 1
means that data loading costs no time. Each of the `--rounds` rounds measures all loaders; the table shows the medians
of the shares, one row per network.
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
from cnnzoo.training.device_defaults import apply_device_defaults

NETS = ("alexnet", "resnet18", "resnet50", "vgg16", "googlenet", "densenet121", "squeezenet1_1")


def compose_config(net: str, loader: str, args: argparse.Namespace) -> DictConfig:
    """The configuration of `benchmark.py`, whose trainer writes no files."""
    overrides = [
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
    prepared, _ = cli.prepare(overrides, job="benchmark", help_text="")
    with hydra.initialize_config_dir(str(cli.CONF), version_base="1.3"):
        return hydra.compose("benchmark", overrides=prepared)


def measure_shares(net: str, args: argparse.Namespace) -> tuple[float, dict[str, float]]:
    """Images per second of training on one held batch, and the share of it that each loader reaches."""
    cfg = compose_config(net, args.loaders[0], args)
    apply_device_defaults(cfg)
    train.seed_everything(cfg.seed)
    data = cli.instantiate(cfg.data, "data")
    module, input_spec = train.build_network(cfg.model, data)
    optimizer = cli.instantiate(cfg.optimizer, "optimizer")
    classifier = train.build_classifier(module, input_spec, data, optimizer=optimizer, scheduler=None, cfg=cfg)

    def make_trainer(*callbacks: pl.Callback) -> pl.Trainer:
        return cli.instantiate(cfg.trainer, "trainer", callbacks=list(callbacks))

    loaders = {name: cli.instantiate(compose_config(net, name, args).loader, "loader") for name in args.loaders}
    data.setup("fit")
    headspace_rates: list[float] = []
    shares: dict[str, list[float]] = {name: [] for name in loaders}
    measure_headspace(data, classifier, make_trainer, args.seconds)  # warm-up: the first one allocates memory
    for _ in range(args.rounds):
        headspace = measure_headspace(data, classifier, make_trainer, args.seconds)
        headspace_rates.append(headspace)
        for name, loader in loaders.items():
            rate, _ = measure_training(data.variant(loader=loader), classifier, make_trainer, args.seconds)
            shares[name].append(rate / headspace)
    data.teardown()
    return median(headspace_rates), {name: median(values) for name, values in shares.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("nets", nargs="*", default=NETS)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--cache", choices=("none", "encoded", "decoded"), default="encoded")
    parser.add_argument("--loaders", nargs="+", choices=("torch", "dali"), default=["torch", "dali"])
    parser.add_argument("--seconds", type=float, default=4.0, help="duration of each measurement, after a warm-up")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_intermixed_args()
    device_name = torch.cuda.get_device_name(0) if args.device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"{device_name}, torch {torch.__version__}, batches of {args.batch}, cache {args.cache}\n")
    print(f"| network | held batch, images/s | {' | '.join(f'loader={name}' for name in args.loaders)} |")
    print("|---" * (2 + len(args.loaders)) + "|")
    for net in args.nets:
        headspace, shares = measure_shares(net, args)
        print(f"| {net} | {headspace:,.1f} | {' | '.join(f'{share:.3f}' for share in shares.values())} |", flush=True)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
