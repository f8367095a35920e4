"""Show a network layer by layer, a block beside its rival, or the whole zoo, with exact counts. Nothing is trained.

  python describe.py                                               every network: size, operations, published accuracy
  python describe.py csv=zoo.csv picture=zoo.png                   the same as a file, and as the picture of bubbles
  python describe.py model=alexnet model.name=alexnet_paper        one network, as the lectures draw it
  python describe.py model=resnet model.name=resnet152 depth=all   down to the last layer; depth=1: the stages alone
  python describe.py model=vgg model.stem=small image_size=32      the form for small images
  python describe.py block=inception                               what bottlenecks save an inception module

Keys:
  model.name=resnet50      a network of the family      image_size=64  side of the input, in pixels
  model.stem=small         the form for small images    channels=1     of the input: 1 grey, 3 colour
  model.num_classes=10     width of the last layer      depth=2        levels of modules to open: a number, all, or
  +model.args.dropout=0.2  what else it is built with                  auto, as many as give a page of rows
  block=NAME               inception, stack, residual, resnext, fire or dense
  csv=FILE                 the table as a file, every figure exact
  picture=FILE             the zoo's accuracy against its operations (.png, .pdf, .svg; needs matplotlib)

Multiply-accumulates are those of convolutions and linear layers for one image; memory is what the layers put out for
one image in float32. A misspelt key is an error that names the nearest one. HYDRA_FULL_ERROR=1 shows the traceback
behind an error.
"""

from cnnzoo import cli
from cnnzoo.jobs.describe import main

if __name__ == "__main__":
    cli.run(main, config="describe", help_text=__doc__)
