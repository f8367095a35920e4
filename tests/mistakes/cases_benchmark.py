"""`benchmark.py job=hardware`, `graph`, `train` and `inference`."""

from tests.mistakes.case import errors, works

KEYS = {
    "job=hardwar": "did you mean hardware",
    "job=inferrence": "did you mean inference",
    "job=hardware model=vgg": r"its keys: .*models",
    "job=hardware models=[resnt50]": "did you mean.*resnet50",
    "job=hardware models=[lenet5]": "exactly 32",
    "job=hardware models=vgg16,resnet50": "-m|models=",
    "job=graph models=[resnet50]": "only job=hardware",
    "job=graph variants=[onx]": "did you mean onnx",
    "job=graph model=resnet model.name=vgg16": "model=vgg",
    "job=graph json=notes.txt": "exists already",
    "job=train csv=x.csv": "only job=data",
    "job=train trainer.precision=64-true": "32-true and bf16-mixed",
    "job=train data=folder": "data.root=",
    "job=inference batch_size=8": "batch_sizes|data.batch_size",
    "job=inference batch_sizes=[0]": "batch_sizes=0",
    "job=inference batch_sizes=abc": r"batch_sizes=\[1,16\]|list of numbers",
    "job=inference compile=abc": "compile=abc",
    "job=inference trainer=gpu": "trainer=cpu",
}
SHORT = "benchmark seconds=0.01 rounds=1 trainer=cpu"

CASES = [
    *errors("benchmark", KEYS),
    *works(
        SHORT,
        [
            "job=hardware models=resnet20 data.image_size=16 data.batch_size=2",
            "job=inference model=lenet batch_sizes=2 compile=false",
            "job=train model=lenet data=folder data.root=flowers data.batch_size=4 loader.workers=0",
        ],
    ),
]
