"""Show a network layer by layer, two kinds of blocks compared, or a table of all networks. Nothing is trained.

Examples:
  python describe.py                                               all networks: size, operations, published accuracy
  python describe.py csv=zoo.csv picture=zoo.png                   the same table as a file, and as a bubble chart
  python describe.py model=alexnet model.name=alexnet_paper        the layers of one network
  python describe.py model=resnet model.name=resnet152 depth=all   down to the last layer; depth=1 shows only the stages
  python describe.py model=vgg model.stem=small image_size=32      the form for small images
  python describe.py block=inception                               what the bottlenecks of an inception module save

Keys:
  model.name=resnet50       a network of the family
  model.stem=small          form of the first layers: native (the paper's), small (for small images), or auto
  model.num_classes=10      number of outputs of the last layer
  +model.args.dropout=0.2   another argument of the network's constructor
  image_size=64             side of the input, in pixels, or [height,width]
  channels=1                channels of the input, such as 1 (grayscale) or 3 (color)
  depth=2                   levels of nested modules to show: a number, all, or auto (as many as fit on a page)
  block=NAME                compare two kinds of blocks: inception, stack, residual, resnext, fire or dense
  csv=FILE                  write the table to a file, with exact numbers
  picture=FILE              draw accuracy against operations of all networks (.png, .pdf or .svg; needs matplotlib)

Operations are the multiply-accumulates of convolutions and linear layers for one image. Memory is the size of the
layers' outputs for one image in float32. A misspelt key is an error that suggests the closest ones. HYDRA_FULL_ERROR=1
shows the traceback behind an error.
"""

from omegaconf import DictConfig

from cnnzoo import cli
from cnnzoo.runtime.imports import imports_without_gc


def main(cfg: DictConfig) -> None:
    """Print a block, a network, or the whole zoo, whichever the configuration selects."""
    with imports_without_gc():  # here because torch takes seconds to load, and a misspelt key is reported without torch
        from cnnzoo.describe import show

    if cfg.block is not None:
        show.show_block(cfg)
    elif "model" in cfg:
        show.show_network(cfg)
    else:
        show.show_zoo(cfg)


def run() -> None:
    """Run the job with the arguments of the command line."""
    cli.run(main, job="describe", help_text=__doc__ or "")


if __name__ == "__main__":
    run()
