"""`data.channels=`, `data.bits=` and the turns of `augment`: formats that the images, the loader or the device lack."""

from tests.mistakes.case import WORKS, Case, errors
from tests.mistakes.places import SHORT

SHORT_ARGS = " ".join(SHORT)
BANDS = "data=folder data.root=bands data.batch_size=8"

QUICK = {
    "data.chanels=4": "data.channels",
    "data.bit=16": "data.bits",
    "augment.vertical_flp=0.5": "augment.vertical_flip",
    "augment.rotate_90=true": "augment.rotate90",
    "augment.rotation_degrees=10": "augment.rotation",
}

VALUES = {
    "data.channels=rgb": r"data\.channels=rgb",
    "data.bits=12": r"data\.bits=12: expected 8 or 16",
    "data.bits=16": r"data\.bits=16.*leave data\.bits out",
    "augment.vertical_flip=2": r"augment\.vertical_flip=2",
    "augment.rotate90=0.5": r"augment\.rotate90=0\.5: expected true or false",
    "augment.rotation=-10": r"augment\.rotation=-10",
    "augment.rotation=[-10,10]": r"augment\.rotation=",
    "model=resnet augment.rotate90=true data.image_size=[32,48]": r"rotate90=true.*square.*data\.image_size=48",
}

FORMATS = {
    BANDS: r"npy and all others: has 4 channels with 16 bits.*type data\.channels=4 data\.bits=16",
    f"{BANDS} data.channels=4": r"npy: has 4 channels with 16 bits.*type data\.bits=16",
    f"{BANDS} data.channels=3 data.bits=16": r"npy: has 4 channels.*type data\.channels=4",
    f"{BANDS} data.channels=4 data.bits=16 loader=dali": r"bits=16: loader=dali.*loader=torch|not installed",
    f"{BANDS} data.channels=4 data.bits=16 augment=randaugment": r"augment\.auto_augment=.*auto_augment=null",
    f"{BANDS} data.channels=4 data.bits=16 augment.mean=[0.5,0.5]": r"augment\.mean=.*2 numbers, expected 1 or 4",
    f"{BANDS} data.channels=4 data.bits=16 data.cache.mode=encoded data.cache.resize=16": r"cache\.mode=decoded",
}

CASES = [
    *errors(f"train {SHORT_ARGS}", QUICK, quick=True),
    *errors(f"train {SHORT_ARGS}", VALUES),
    *errors(f"train {SHORT_ARGS}", FORMATS),
    Case(
        f"train {SHORT_ARGS} {BANDS} data.channels=4 data.bits=16 loader.workers=0", WORKS, output="4 channels with 16"
    ),
    Case(f"train {SHORT_ARGS} augment.vertical_flip=0.5 augment.rotate90=true augment.rotation=10", WORKS),
]
