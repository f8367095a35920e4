"""`data=`, `data.root=` and the cache: directories that are missing, empty or wrong. Nothing is downloaded."""

from tests.mistakes.case import WORKS, Case, errors
from tests.mistakes.places import SHORT

SHORT_ARGS = " ".join(SHORT)
OFFLINE = (("https_proxy", "http://127.0.0.1:9"), ("http_proxy", "http://127.0.0.1:9"), ("no_proxy", None))

FOLDER = {
    "data=folder": "data.root=",
    "data=folder data.root=": "data.root=",
    "data=folder data.root=null": "data.root=",
    "data=folder data.root=nosuch": "nosuch",
    "data=folder data.root=~/nosuch": "nosuch",
    "data=folder data.root=notes.txt": r"notes\.txt.*not a directory|notes\.txt",
    "data=folder data.root=empty": "empty.*one folder per class",
    "data=folder data.root=flat": "one folder per class",
    "data=folder data.root=one_class": "one_class|class",
    "data=folder data.root=not_images": "not_images|no images",
    "data=folder data.root=corrupt": r"corrupt|3\.png|on_bad_file=skip",
    "data=folder data.root=three": "three|images",
    "data=folder data.root=few data.batch_size=64": "data.batch_size=",
    "data=folder data.root=flowers/red": "flowers|one folder per class",
    "data=folder data.root=flowers/red/0.png": r"0\.png",
    "data=folder data.root=/proc/1": "/proc/1|one folder per class",
    "data=folder data.root=flowers,few": "flowers,few",
    "data=folder data.root=[flowers]": "flowers",
    "data.root=flowers": "data=folder",
    "data=folder data.root=flowers data.batch_size=8 data.cache.persist=/proc/x": "/proc/x",
    "data=folder data.root=flowers data.batch_size=8 data.cache.persist=notes.txt": r"notes\.txt",
    "data=folder data.root=flowers data.cache.mode=none data.cache.persist=x": "data.cache.persist",
    "data=folder data.root=flowers data.batch_size=8 loader.kind=fibers": "loader.kind",
    "data=folder data.root=flowers data.batch_size=8 data.on_bad_file=no": "data.on_bad_file",
    "data=imagenet": "data.root=",
    "data=imagenet data.root=nosuch": "nosuch",
    "data=imagenet data.root=empty": "empty|train",
    "data=imagenet data.root=flowers": "train|one folder",
    "data=cifar10 data.root=notes.txt": r"notes\.txt",
    "data=cifar10 data.root=/proc/x": "/proc/x",
    "data=imagenette data.source.size=111px": "111px",
    "data=synthetic data.source.images=0": "images",
    "data=synthetic data.source.images=abc": "images",
    "data=synthetic data.source.images=5": "images",
    "data=synthetic data.source.classes=0": "classes",
    "data=synthetic data.source.classes=1": "classes",
    "data=synthetic data.source.classes=10000": "classes|images",
    "data=synthetic data.source.image_size=0": "image_size",
    "data=synthetic data.source.channels=2": "channels",
    "data=synthetic data.root=flowers": "data.root|root",
    "data=synthetic data.source._target_=cnnzoo.data.Nope": "Nope",
}

DOWNLOADS = ("mnist", "fashion_mnist", "cifar10", "cifar100", "imagenette")

CASES = [
    *errors(f"train {SHORT_ARGS}", FOLDER),
    *(
        Case(f"train {SHORT_ARGS} data={name} data.root=empty/new", "download", environment=OFFLINE)
        for name in DOWNLOADS
    ),
    Case(f"train {SHORT_ARGS} data=mnist", "/proc/x", environment=(("CNNZOO_DATA", "/proc/x"), *OFFLINE)),
    Case(f"train {SHORT_ARGS} data=mnist", "HOME|/proc|cnnzoo", environment=(("HOME", "/proc"), *OFFLINE)),
    Case(f"train {SHORT_ARGS} data=folder data.root=few", WORKS, output="batch"),
    Case(f"train {SHORT_ARGS} data=folder data.root=flowers data.batch_size=8", WORKS, absent="acc5"),
    Case(f"train {SHORT_ARGS} data=folder data.root=corrupt data.on_bad_file=skip data.batch_size=8", WORKS),
    Case(f"train {SHORT_ARGS} data=folder data.root=flowers data.batch_size=8 data.cache.persist=cached", WORKS),
    Case(f"train {SHORT_ARGS} data=folder data.root=flowers/../flowers data.batch_size=8 loader=dali", WORKS),
]
