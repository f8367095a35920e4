"""Train a network on images, test its best checkpoint, and save everything in a run directory.

Examples:
  python train.py model=resnet                                  ResNet-18 on 1,797 handwritten digits (included)
  python train.py model=vgg model.name=vgg11_bn                 another family, and one of its networks
  python train.py model=lenet data=folder data.root=~/flowers   your own images, one folder per class
  python train.py -m model=lenet,resnet optimizer.lr=0.1,0.01   all four combinations one after the other, and a table
  python train.py -m sweep=optuna model=lenet                   a hyperparameter search with Optuna
  python train.py model=resnet trainer=ddp                      on all devices of this machine
  python train.py resume=runs/digits/resnet18/...               continue a stopped run from its last checkpoint
  python train.py model=resnet --cfg job                        print the whole configuration and exit

group=choice selects a whole part of the configuration (the choices are listed below), key=value sets one value, and
+key=value adds one.

Common keys:
  model.name=resnet50            a network of the family
  model.stem=small               form of the first layers: native (the paper's), small (for small images), or auto
  model.weights=W                initial weights: a torchvision name such as IMAGENET1K_V1, or a file
  data.root=DIR                  directory of the images
  data.image_size=64             side of the input, in pixels
  data.channels=1                1 (grayscale) or 3 (color)
  data.batch_size=128            images per step and device
  loader.workers=4               processes or threads that read, decode and augment images
  optimizer.lr=0.01              learning rate
  optimizer.weight_decay=0       weight decay
  scheduler.warmup_epochs=1      epochs during which the learning rate rises to optimizer.lr
  trainer.max_epochs=20          number of epochs
  trainer.precision=bf16-mixed   numeric precision; every argument of Lightning's Trainer is a key of trainer
  label_smoothing=0.1            label smoothing of the loss
  ema=0.999                      average the weights with this decay; the average is what is evaluated and saved
  compile=true                   compile the network with torch.compile
  seed=1                         seed of the initial weights, the order of the images and the augmentation
  test=false                     do not test the best checkpoint
  run_dir=DIR                    the run directory; by default runs/<data>/<network>/<date and time>
  resume=DIR                     continue the run in this directory

A misspelt key is an error that suggests the closest ones. HYDRA_FULL_ERROR=1 shows the traceback behind an error.
"""

from cnnzoo import cli
from cnnzoo.jobs.train import main

if __name__ == "__main__":
    cli.run(main, config="train", help_text=__doc__)
