"""`group=choice`: null, empty, removed, misspelt, doubled, of a wrong type, or the name of something similar."""

from tests.mistakes.case import errors, works
from tests.mistakes.places import SHORT

REQUIRED = {
    "model": "resnet",
    "data": "digits",
    "optimizer": "sgd",
    "trainer": "default",
    "loader": "auto",
    "task": "multiclass",
}
"""Groups that a run needs, and a choice that the error offers."""
OPTIONAL = {
    "augment": "none",
    "scheduler": "constant",
    "callbacks": "none",
    "logger": "none",
    "experiment": "cifar10_fast",
    "debug": "fast",
    "sweep": "grid",
}
"""Groups for which null has a meaning, and a choice that the error about an empty value offers."""
SHORT_ARGS = " ".join(SHORT)

CASES = [
    # no choice at all
    *errors("train", {f"{group}=null": f"{group}=.*{offer}" for group, offer in REQUIRED.items()}, quick=True),
    *errors("train", {f"{group}=": f"{group}=.*{offer}" for group, offer in REQUIRED.items()}, quick=True),
    *errors("train", {f"~{group}": f"{group}\\b.*{offer}" for group, offer in REQUIRED.items()}, quick=True),
    *errors("train", {f"{group}=": f"{group}=.*{offer}" for group, offer in OPTIONAL.items()}, quick=True),
    *works(f"train {SHORT_ARGS}", [f"{group}=null" for group in OPTIONAL]),
    *errors(
        f"train {SHORT_ARGS}", {f"~{group}": f"{group}\\b.*{offer}" for group, offer in OPTIONAL.items()}, accepted=True
    ),
    *works(
        f"train {SHORT_ARGS}",
        ["scheduler=constant", "callbacks=minimal", "callbacks=none", "logger=csv", "logger=none"],
    ),
    # misspelt
    *errors(
        "train",
        {
            "model=resnt": "unknown model 'resnt': did you mean resnet",
            "model=ResNet": "did you mean resnet",
            "model=desnet": "did you mean.*densenet",
            "model=xyzzy": "expected one of.*alexnet",
            "data=digit": "unknown data 'digit': did you mean digits",
            "data=cifar": "did you mean.*cifar10",
            "data=CIFAR10": "did you mean.*cifar10",
            "data=MNIST": "did you mean.*mnist",
            "data=cifar-10": "did you mean.*cifar10",
            "loader=tourch": "did you mean torch",
            "augment=imgnet": "did you mean imagenet",
            "augment=randaug": "did you mean randaugment",
            "optimizer=sdg": "did you mean sgd",
            "optimizer=SGD": "did you mean sgd",
            "optimizer=adam": "did you mean adamw",
            "optimizer=Adam": "did you mean adamw",
            "optimizer=lion": "expected one of.*sgd",
            "optimizer=rms_prop": "did you mean rmsprop",
            "scheduler=cosin": "did you mean cosine",
            "scheduler=cosine_annealing": "did you mean cosine",
            "scheduler=onecycle": "did you mean one_cycle",
            "scheduler=reduce_on_plateau": "did you mean plateau",
            "scheduler=poly": "did you mean polynomial",
            "scheduler=none": "constant",
            "trainer=cpuu": "did you mean cpu",
            "trainer=cuda": "gpu",
            "trainer=GPU": "did you mean gpu",
            "callbacks=defualt": "did you mean default",
            "logger=tensorbord": "did you mean tensorboard",
            "logger=tb": "tensorboard",
            "callbacks=no": "none",
            "logger=no": "none",
            "experiment=mnist": "did you mean mnist_lenet",
            "experiment=cifar10": "did you mean cifar10_",
            "debug=fst": "did you mean fast",
            "debug=true": "fast",
            "-m sweep=gird": "did you mean grid",
        },
        quick=True,
    ),
    # the name of a network instead of its family, or a directory instead of a data set
    *errors(
        "train",
        {
            "model=resnet50": "model=resnet model.name=resnet50",
            "model=vgg16": "model=vgg model.name=vgg16",
            "model=lenet5": "model=lenet model.name=lenet5",
            "model=densenet121": "model=densenet model.name=densenet121",
            "model=resnext50_32x4d": "model=resnext model.name=resnext50_32x4d",
            "model=wrn_28_10": "model=wide_resnet model.name=wrn_28_10",
            "model=ResNet50": "model=resnet model.name=resnet50",
            "model=inception": "unknown model 'inception'",
            "model=mobilenet_v2": "unknown model 'mobilenet_v2'",
            "model=vit_b_16": "unknown model 'vit_b_16': expected one of",
            "data=imagefolder": "folder",
            "data=flowers": "data=folder data.root=flowers",
            "data=./flowers": r"data=folder data.root=\./flowers",
            "data=/path/to/images": "data=folder data.root=/path/to/images",
            "-m sweep=optuna": r"pip install.*optuna",
            "-m sweep=slurm": r"pip install.*(slurm|submitit)",
            "-m sweep=parallel": r"pip install.*(slurm|submitit)",
        },
        quick=True,
    ),
    *errors(
        f"train {SHORT_ARGS}",
        {"logger=wandb": r"pip install.*wandb", "logger=mlflow": r"pip install.*mlflow"},
    ),
    # of a wrong type
    *errors(
        "train",
        {
            "model=18": "unknown model '18'",
            "model=true": "unknown model",
            "data=5": "unknown data '5'",
            "optimizer=0.1": "optimizer",
            "scheduler=0": "unknown scheduler",
            "scheduler=false": "constant",
            "augment=true": "unknown augment",
            "augment=false": "none",
            "loader=4": "loader",
            "trainer=2": "unknown trainer",
            "logger=false": "unknown logger",
            "callbacks=false": "unknown callbacks",
            "model=[lenet,resnet]": "model=",
            "data=[digits,mnist]": "data=",
            "optimizer=[sgd,adamw]": "optimizer=",
            "scheduler=[cosine,step]": "scheduler=",
            "model={name:resnet50}": "model",
            "model=[]": "model=",
            "optimizer=[]": "optimizer=",
        },
        quick=True,
    ),
    # doubled
    *errors(
        "train",
        {
            "model=lenet model=resnet": "model",
            "data=digits data=synthetic": "data",
            "optimizer=sgd optimizer=adamw": "optimizer",
            "trainer=cpu trainer=gpu": "trainer",
            "experiment=mnist_lenet experiment=cifar10_resnet20": "experiment",
            "~model model=lenet": "model",
        },
        quick=True,
    ),
    *errors(
        f"train {SHORT_ARGS}",
        {
            "optimizer.lr=0.1 optimizer.lr=0.2": "optimizer.lr",
            "seed=1 seed=2": "seed",
            "trainer.max_epochs=1 +trainer.max_epochs=1": "trainer.max_epochs",
            "logger=[csv,tensorboard]": "logger",
        },
        accepted=True,
    ),
]
