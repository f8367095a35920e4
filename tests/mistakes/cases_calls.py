"""Calls of the library with wrong arguments."""

from tests.mistakes.case import WORKS, Case, calls

CREATE = {
    "cnnzoo.create_model('resnt50')": "did you mean resnet50",
    "cnnzoo.create_model('ResNet50')": "did you mean resnet50",
    "cnnzoo.create_model('resnet')": "resnet18",
    "cnnzoo.create_model('')": "unknown model",
    "cnnzoo.create_model(None)": "name=None",
    "cnnzoo.create_model(18)": "name=18",
    "cnnzoo.create_model(['resnet18'])": "unknown model|name",
    "cnnzoo.create_model('resnet18', pretrained=True)": "weights",
    "cnnzoo.create_model('resnet18', in_chans=1)": "in_channels",
    "cnnzoo.create_model('resnet18', channels=1)": "in_channels",
    "cnnzoo.create_model('resnet18', n_classes=3)": "num_classes",
    "cnnzoo.create_model('resnet18', classes=3)": "num_classes",
    "cnnzoo.create_model('resnet18', image_size=64)": "image_size",
    "cnnzoo.create_model('resnet18', num_classes=-1)": "num_classes=-1",
    "cnnzoo.create_model('resnet18', num_classes='10')": "num_classes=10",
    "cnnzoo.create_model('resnet18', num_classes=10.0)": "num_classes=10.0",
    "cnnzoo.create_model('resnet18', num_classes=True)": "num_classes=True",
    "cnnzoo.create_model('resnet18', in_channels=0)": "in_channels=0",
    "cnnzoo.create_model('resnet18', in_channels='rgb')": "in_channels=rgb",
    "cnnzoo.create_model('resnet18', in_channels=1.5)": "in_channels=1.5",
    "cnnzoo.create_model('resnet18', stem='big')": "unknown stem 'big'",
    "cnnzoo.create_model('resnet18', stem=1)": "unknown stem",
    "cnnzoo.create_model('resnet18', stem='auto')": "unknown stem",
    "cnnzoo.create_model('resnet18', weights=True)": "weights=True.*IMAGENET1K_V1",
    "cnnzoo.create_model('resnet18', weights='imagenet')": "IMAGENET1K_V1",
    "cnnzoo.create_model('resnet18', weights='IMAGENET1K_V9')": "did you mean IMAGENET1K_V1",
    "cnnzoo.create_model('lenet5', weights='DEFAULT')": "no published weights",
    "cnnzoo.create_model('resnet18', weights='nosuch.pth')": "there is no such file",
    "cnnzoo.create_model('resnet18', weights='garbage.pth')": r"garbage\.pth",
    "cnnzoo.create_model('resnet18', weights='empty.pth')": r"empty\.pth",
    "cnnzoo.create_model('resnet18', weights='pickled.pth')": r"pickled\.pth",
    "cnnzoo.create_model('resnet18', weights='resnet20.pth')": r"resnet20\.pth",
    "cnnzoo.create_model('resnet18', weights='/')": "weights=/",
    "cnnzoo.create_model('resnet18', weights=5)": "weights=5",
    "cnnzoo.create_model('resnet18', weights={})": "weights",
    "cnnzoo.create_model('alexnet', dropuot=0.5)": "did you mean dropout",
    "cnnzoo.create_model('alexnet', dropout=2)": "dropout",
    "cnnzoo.create_model('alexnet', dropout='abc')": "dropout",
    "cnnzoo.create_model('resnet18', 10)": "positional argument",
    "cnnzoo.create_model()": "name",
    "cnnzoo.info('resnt50')": "did you mean resnet50",
    "cnnzoo.info(None)": "name=None",
    "cnnzoo.info('resnet18').sizes('big')": "unknown stem",
    "cnnzoo.list_models(family='resnt')": "did you mean resnet",
    "cnnzoo.list_models(pretrained='yes')": "pretrained",
    "cnnzoo.list_models(5)": "pattern",
    "cnnzoo.create_modle('resnet18')": "create_mod",
    "cnnzoo.resnet18()": "resnet18",
}

LOAD_RUN = {
    "cnnzoo.load_run('nosuch')": "nosuch",
    "cnnzoo.load_run('empty')": "empty has no checkpoints|empty",
    "cnnzoo.load_run('notes.txt')": r"notes\.txt",
    "cnnzoo.load_run('garbage.pth')": r"garbage\.pth",
    "cnnzoo.load_run('run', checkpoint='newest')": "best",
    "cnnzoo.load_run('run', checkpoint=3)": "best",
    "cnnzoo.load_run('sweep')": "sweep",
    "cnnzoo.load_run(None)": "None|run_dir",
    "cnnzoo.load_run('run').preprocess('nosuch.png')": r"nosuch\.png",
    "cnnzoo.load_run('run').preprocess('notes.txt')": r"notes\.txt",
    "cnnzoo.load_run('run').preprocess(5)": "image|pixels",
    "cnnzoo.load_run('run').preprocess(__import__('numpy').zeros((8, 8, 3)))": "uint8",
    "cnnzoo.load_run('run').preprocess(__import__('torch').zeros(3, 8, 8))": "uint8|image|pixels",
}

DATA_SETUP = "from cnnzoo.data import *\nfrom cnnzoo.data.datamodule import DataModule"
DATA = {
    "DataModule(Digits, batch_size=0)": "data.batch_size=0",
    "DataModule(Digits, batch_size='8')": "data.batch_size=8",
    "DataModule(Digits, image_size=0)": "data.image_size=0",
    "DataModule(Digits, channels=2)": "data.channels=2",
    "DataModule(Digits, split_seed=-1)": "data.split_seed=-1",
    "DataModule(Digits, seed='a').train_dataloader()": "seed",
    "DataModule(Digits, seed=-1).train_dataloader()": "seed",
    "DataModule(Digits, on_bad_file='ignore')": "data.on_bad_file=ignore",
    "DataModule(Digits, root='flowers')": "root",
    "DataModule(Digits, augment=None)": "augment",
    "DataModule(Digits, augment='light')": "augment",
    "DataModule(Digits, cache=None)": "cache",
    "DataModule(Digits, cache='decoded')": "cache",
    "DataModule(Digits, loader='torch')": "loader",
    "DataModule(Digits, loader=None)": "loader",
    "DataModule('digits')": "source",
    "DataModule(None)": "source",
    "DataModule(Digits())": "source",
    "DataModule(ImageFolder)": "data.root",
    "DataModule(ImageFolder, root='nosuch')": "nosuch",
    "DataModule(ImageFolder, root=5)": "root",
    "DataModule(ImageFolder, root='three')": "three|images",
    "DataModule(Digits, batch_size=100000).train_dataloader()": "batch_size",
    "DataModule(Digits).split('validation')": "val",
    "ImageFolder('nosuch')": "nosuch",
    "ImageFolder('flat')": "one folder per class",
    "ImageFolder('empty')": "one folder per class",
    "ImageFolder('flowers', split_seed='a')": "split_seed",
    "Synthetic(images=0)": "images",
    "Synthetic(classes=0)": "classes",
    "Synthetic(image_size='a')": "image_size",
    "Synthetic(channels=2)": "channels",
    "Imagenette('empty', size='1px')": "1px",
    "Cache(mode='ram')": "data.cache.mode=ram",
    "Cache(mode=None)": "data.cache.mode=None",
    "Cache(budget=0)": "data.cache.budget=0",
    "Cache(budget='80%')": "data.cache.budget=80%",
    "Cache(resize=0)": "data.cache.resize=0",
    "Cache(resize=(8, 8))": "data.cache.resize",
    "Cache(mode='none', persist='x')": "data.cache.persist",
    "Cache(persist=5)": "data.cache.persist",
    "Augment(crop='circle')": "augment.crop=circle",
    "Augment(flip=2)": "augment.flip=2",
    "Augment(flip='a')": "augment.flip=a",
    "Augment(scale=1)": "scale",
    "Augment(scale=(1, 0.1))": "scale",
    "Augment(ratio=(0, 1))": "ratio",
    "Augment(auto_augment='rand')": "auto_augment=rand",
    "Augment(num_ops=0)": "num_ops=0",
    "Augment(magnitude=31)": "magnitude=31",
    "Augment(color_jitter=0.4)": "color_jitter",
    "Augment(color_jitter=(1, 1, 1, 1))": "color_jitter",
    "Augment(random_erase=2)": "random_erase=2",
    "Augment(eval_resize=0.5)": "eval_resize=0.5",
    "Augment(mean='abc')": "mean",
    "Augment(std=(0,))": "std",
    "Augment(mean=(0.5, 0.5)) and DataModule(Digits, augment=Augment(mean=(0.5, 0.5))).setup()": "mean",
    "Preprocess(image_size=0, eval_resize=1, channels=3, mean=[0], std=[1])": "image_size",
    "Preprocess(image_size=8, eval_resize=1, channels=2, mean=[0], std=[1])": "channels",
}
LOADER_SETUP = f"{DATA_SETUP}\nfrom functools import partial"
LOADERS = {
    f"DataModule(Digits, loader=partial({loader}, {option})).train_dataloader()": error
    for loader, option, error in (
        ("TorchLoader", "workers=-1", "loader.workers=-1"),
        ("TorchLoader", "workers='many'", "loader.workers=many"),
        ("TorchLoader", "kind='fibers'", "loader.kind=fibers"),
        ("TorchLoader", "workers=1.5", "loader.workers=1.5"),
        ("auto_loader", "kind='fibers'", "loader.kind=fibers"),
        ("DaliLoader", "prefetch=0", "prefetch"),
        ("DaliLoader", "workers=0", "loader.workers=0"),
    )
}

HUB_SETUP = """import os, torch
load = lambda name, **arguments: torch.hub.load(os.environ['PYTHONPATH'], name, source='local', **arguments)"""
HUB = {
    "load('resnet18', pretrained=True)": "weights",
    "load('resnet18', num_classes=-1)": "num_classes=-1",
    "load('resnet18', stem='big')": "unknown stem",
    "load('resnet18', in_chans=1)": "in_channels",
    "load('resnet18', weights='IMAGENET1K_V9')": "IMAGENET1K_V1",
}

ITERATE = """
first, second = ([(x.clone(), y.clone()) for x, y in loader] for loader in (data.train_dataloader(),) * 2)
assert not all((a[1] == b[1]).all() for a, b in zip(first, second)), 'the same order twice'
"""

CASES = [
    *calls(CREATE),
    *calls(LOAD_RUN),
    *calls(DATA, setup=DATA_SETUP),
    *calls(LOADERS, setup=LOADER_SETUP),
    *calls(HUB, setup=HUB_SETUP),
    *(
        Case(f"import cnnzoo\n{statement}", WORKS, kind="call")
        for statement in (
            "assert {'create_model', 'info', 'list_models', 'load_run'} <= set(dir(cnnzoo))",
            "cnnzoo.load_run('run')",
            "cnnzoo.load_run('run/checkpoints/best.ckpt')",
            "cnnzoo.load_run('run/checkpoints/last.ckpt')",
            "import pathlib; cnnzoo.load_run(pathlib.Path('run'))",
            "cnnzoo.load_run('run/')",
            "cnnzoo.load_run('run', checkpoint='last')",
            "assert cnnzoo.list_models('nosuch*') == []",
            "cnnzoo.create_model('resnet18', num_classes=__import__('numpy').int64(3))",
        )
    ),
    Case(f"{DATA_SETUP}\ndata = DataModule(Digits, augment=Augment(crop='padded')){ITERATE}", WORKS, kind="call"),
]
