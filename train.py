"""Train a network on images, test its best checkpoint, and leave a run directory behind.

  python train.py model=resnet                                  resnet18 on scikit-learn's handwritten digits
  python train.py model=vgg model.name=vgg11_bn                 another network of a family
  python train.py model=lenet data=folder data.root=~/flowers   your own images, one folder per class
  python train.py -m model=lenet,resnet optimizer.lr=0.1,0.01   every combination, one run after the other, and a table
  python train.py -m sweep=optuna model=lenet                   Optuna chooses the values
  python train.py model=resnet trainer=ddp                      on all devices of this machine
  python train.py resume=runs/digits/resnet18/...               go on with a run that was stopped, where it was
  python train.py model=resnet --cfg job                        print the whole configuration and exit

Keys typed most (group=choice swaps a whole part, key=value sets one value, +key=value adds one):
  model.name=resnet50      a network of the family        data.root=DIR           where the images are
  model.stem=small         the form for small images      data.image_size=64      side of the input, in pixels
  model.weights=W          IMAGENET1K_V1, or a file       data.batch_size=128     images per step and device
  optimizer.lr=0.01        learning rate                  data.channels=1         1 grey, 3 colour
  optimizer.weight_decay=0 weight decay                   loader.workers=4        who reads and decodes images
  trainer.max_epochs=20    how long                       trainer.precision=bf16-mixed
  scheduler.warmup_epochs=1                               label_smoothing=0.1     compile=true
  seed=1                   weights, order, augmentation   run_dir=DIR             test=false
  ema=0.999                average of the weights         resume=DIR              go on with a run that was stopped

A misspelt key is an error that names the nearest one. HYDRA_FULL_ERROR=1 shows the traceback behind an error.
"""

from cnnzoo import cli
from cnnzoo.jobs.train import main

if __name__ == "__main__":
    cli.run(main, config="train", help_text=__doc__)
