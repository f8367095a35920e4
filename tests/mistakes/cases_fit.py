"""`data.fit` and image sizes of height and width."""

from tests.mistakes.case import calls, errors, works
from tests.mistakes.places import SHORT

TRAIN = f"train {' '.join(SHORT)} test=false run_dir=out"
FOLDER = "data=folder data.root=flowers data.batch_size=8"

QUICK = {
    "fit=pad": "type data.fit=pad",
    "augment.fit=pad": "type data.fit=pad",
    "data.image_size=32,32": "add -m",
}

ERRORS = {
    "data.fit=letterbox": "data.fit=letterbox: expected crop, pad or squash",
    "data.fit=true": "data.fit=True: expected crop, pad or squash",
    "data.fit=pad augment=imagenet": "augment.crop=random_resized trains on parts.*type augment.crop=padded",
    "data.fit=squash augment.eval_resize=1.2": "type augment.eval_resize=1, or data.fit=crop",
    "data.image_size=[32,40]": r"data.image_size=\[32,40\]: lenet5 takes exactly 32 pixels in height and width",
    "data.image_size=[32]": r"data.image_size=\[32\]: expected two numbers, \[height,width\]",
    "data.image_size=[]": r"data.image_size=\[\]: expected two numbers, \[height,width\]",
    "data.image_size=[32,-1]": r"data.image_size=-1: expected a whole number >= 1 in \[height,width\]",
    "data.image_size=32x32": r"data.image_size=32x32: expected a whole number >= 1 or \[height,width\]",
    "model=vgg data.image_size=[16,64]": r"\[16,64\]: vgg11_bn .*takes 32 or more pixels in height and width",
    "model=resnet data.image_size=[24,40] data.start_size=25": "data.start_size=25: .*type a smaller data.start_size",
    "model=resnet data.start_size=[8,16]": "expected a whole number >= 1 .the shorter side",
}

DESCRIBE = {
    "model=lenet image_size=[32,40]": "lenet5 takes exactly 32 pixels in height and width",
    "model=resnet image_size=[64]": r"image_size=\[64\]: expected two numbers",
    "block=inception image_size=[8,0]": "image_size=0: expected a whole number",
}

EXPORT = {"image_size=[32,40]": "exactly 32 pixels in height and width", "image_size=[32]": "expected two numbers"}

CALLS = {
    "DataModule(Digits, fit='fill')": "data.fit=fill: expected crop, pad or squash",
    "DataModule(Digits, image_size=(8, 8, 8))": "data.image_size",
    "Preprocess(image_size=[8], eval_resize=1, channels=3, mean=[0], std=[1])": "image_size",
    "Preprocess(image_size=8, eval_resize=1, channels=3, mean=[0], std=[1], fit='fill')": "fit=fill",
}

WORKS = [
    f"data.fit=squash data.image_size=[32,32] {FOLDER}",
    f"model=squeezenet data.fit=pad data.image_size=[32,40] data.start_size=24 {FOLDER}",
]

CASES = [
    *errors(TRAIN, QUICK, quick=True),
    *errors(TRAIN, ERRORS),
    *errors("describe", DESCRIBE),
    *errors("export run=run out=net.pt2", EXPORT),
    *calls(CALLS, setup="from cnnzoo.data import Digits, Preprocess\nfrom cnnzoo.data.datamodule import DataModule"),
    *works(TRAIN, WORKS),
]
