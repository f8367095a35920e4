"""Closed pipes, full disks, missing homes, other locales, and signals at each stage of a run."""

from tests.mistakes.case import NO_TRACEBACK, SKIPPED, WORKS, Case
from tests.mistakes.places import SHORT

SHORT_ARGS = " ".join(SHORT)
RUN = f"train {SHORT_ARGS}"
FOLDER = "data=folder data.root=flowers data.batch_size=8"
FULL_DISK = f"mkdir full && mount -t tmpfs -o size={{size}} tmpfs full || exit {SKIPPED}; trap 'umount -l full' EXIT;"


def shell(script: str, expected: str = NO_TRACEBACK, **options: object) -> Case:
    """A bash script."""
    return Case(script, expected, kind="shell", **options)  # type: ignore[arg-type]


def variables(command: str, expected: str = WORKS, **values: str | None) -> Case:
    """A command with environment variables; None removes one."""
    return Case(command, expected, environment=tuple(values.items()))


def stage(command: str, signal: str, where: str, exits: tuple[int, ...], output: str = "") -> Case:
    """A command that gets a signal at a stage."""
    return Case(command, NO_TRACEBACK, signal=f"{signal} {where}", exits=exits, output=output)


STAGES = {
    "start": "cnnzoo.cli.overrides import",
    "composing": "hydra._internal.config_loader_impl ConfigLoaderImpl.load_configuration",
    "importing": "torch import",
    "importing Lightning": "pytorch_lightning import",
    "listing": "cnnzoo.data.datasets.folder ImageFolder.__init__",
    "building": "cnnzoo.training.train build_network",
    "filling": "cnnzoo.data.cache.cache Cache.fill",
    "training": "cnnzoo.training.classifier Classifier.training_step",
    "validating": "cnnzoo.training.classifier Classifier.validation_step",
    "testing": "cnnzoo.training.classifier Classifier.test_step",
    "writing": "cnnzoo.training.run_summary final_table",
}
INTERRUPTED = (130, -2)
TERMINATED = (143, -15)
HUNG_UP = (129, -1)

PIPES = [
    shell("train model=lenet --cfg job | head -1"),
    shell("train --help | head -1"),
    shell("describe | head -1"),
    shell("describe model=resnet depth=all | true"),
    shell(f"{RUN} | head -1"),
    shell("train --help >&-"),
    shell("train model=resnt 2>&-"),
    shell(f"{RUN} >&-"),
    shell(f"{RUN} <&- >/dev/null", WORKS),
    shell("describe model=lenet >&-"),
    shell("describe model=lenet <&-", WORKS),
    shell("train --help >/dev/full", "stdout|No space|written"),
    shell("describe model=lenet >/dev/full", "stdout|No space|written"),
    shell(f"{RUN} >/dev/full", WORKS, output="warning: stdout: cannot be written"),  # train.log has the messages
    shell("train model=resnt 2>/dev/full"),
]

PLACES = [
    shell("mkdir d; cd d; rmdir ../d; train model=lenet", "directory", quick=True),
    shell("mkdir d; cd d; rmdir ../d; describe model=lenet csv=x.csv", "directory"),
    shell("cd /proc; train model=lenet", "run_dir|/proc", quick=True),
    shell("cd /proc; describe csv=x.csv", "csv=x.csv"),
    shell("cd /proc; describe model=lenet", WORKS),
    shell("cd /proc; benchmark csv=x.csv seconds=0.05", "csv=x.csv"),
    shell(f"ulimit -f 8; {RUN}", "too large|cannot be written"),
    shell(f"ulimit -f 8; {RUN} logger=csv callbacks=minimal", "too large|cannot be written"),
    shell(f"{FULL_DISK.format(size='16k')} {RUN} run_dir=full/run", "No space left"),
    shell(f"{FULL_DISK.format(size='400k')} {RUN} run_dir=full/run", "No space left"),
    shell(f"{FULL_DISK.format(size='16k')} describe csv=full/x.csv; describe csv=full/y.csv", "No space left|full"),
    shell(f"{FULL_DISK.format(size='16k')} {RUN} {FOLDER} data.cache.persist=full/c", "No space left"),
    shell(f"ulimit -n 24; {RUN} {FOLDER}", "open files"),
    shell(f"{RUN} 'run_dir=my run' && train 'resume=my run' trainer.max_epochs=2", WORKS),
    shell(f"mkdir 'a b'; cd 'a b'; train -m {SHORT_ARGS} seed=0,1 'run_dir=my sweep'", WORKS),
    shell(
        f"mkdir 'a b'; cd 'a b'; cnnzoo {RUN} 'run_dir=my run' && cnnzoo train 'resume=my run' trainer.max_epochs=2",
        WORKS,
    ),
    shell(
        f"train {SHORT_ARGS} run_dir=new & train {SHORT_ARGS} run_dir=new; wait",
        output="error: run_dir=.*(another process trains there|already holds)",
    ),
    shell("train model=resnet data=folder data.root=~nosuchuser/x", "nosuchuser"),
    shell("PYTHONPATH= describe model=lenet", WORKS),
]

ENVIRONMENT = [
    variables(RUN, HOME=None),
    variables(RUN, HOME="/proc"),
    variables(RUN, HOME="/dev/null"),
    variables(RUN, HOME=""),
    variables(RUN, TMPDIR="/nosuch"),
    variables(RUN, TERM="dumb"),
    variables(RUN, TERM=None, COLUMNS=None),
    variables(RUN, COLUMNS="20"),
    variables(RUN, COLUMNS="abc"),
    variables(RUN, NO_COLOR="1"),
    variables("describe model=lenet", COLUMNS="20"),
    variables("describe", COLUMNS="1"),
    variables("describe picture=x.png", MPLBACKEND="nosuch"),
    variables("describe picture=x.png", HOME="/proc", MPLCONFIGDIR=None),
    variables(RUN, "PYTHONUTF8=1", LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0"),  # in a directory with an é
    variables(f"{RUN} run_dir=é", "PYTHONUTF8=1", LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0"),
    variables(f"{RUN} run_dir=é", PYTHONIOENCODING="ascii"),
    variables("train model=é", "PYTHONUTF8=1", LC_ALL="C", PYTHONUTF8="0", PYTHONIOENCODING="ascii"),
    variables("describe model=resnet", LC_ALL="POSIX", PYTHONUTF8="0", PYTHONIOENCODING="ascii"),
    variables("train --help", LC_ALL="POSIX", PYTHONUTF8="0", PYTHONIOENCODING="ascii"),
    variables(RUN, LANG="nosuch", LC_ALL="nosuch"),
    variables(RUN, LC_ALL="de_DE.UTF-8", LANG="de_DE.UTF-8"),
    variables(RUN, OMP_NUM_THREADS="abc"),
    variables(RUN, OMP_NUM_THREADS="0"),
    variables(RUN, CUDA_VISIBLE_DEVICES=""),
    variables(RUN, CUDA_VISIBLE_DEVICES="9"),
    variables(RUN, PYTHONOPTIMIZE="1"),
    variables(RUN, PYTHONDONTWRITEBYTECODE="1", PYTHONHASHSEED="0"),
    variables(RUN, "LOCAL_RANK", LOCAL_RANK="abc"),
    variables(RUN, "WORLD_SIZE|torchrun", WORLD_SIZE="2", RANK="abc", LOCAL_RANK="0"),
    variables(RUN, USER=None, LOGNAME=None),
    variables("train model=resnt", "did you mean resnet", HOME=None, PATH="/nosuch"),
    variables("train model=resnt", "did you mean resnet", COLUMNS="20", TERM="dumb"),
]

SIGNALS = [
    *(
        stage(f"{RUN} {FOLDER}", "SIGINT", where, INTERRUPTED, "resume=" if name == "training" else "")
        for name, where in STAGES.items()
    ),
    *(
        stage(f"{RUN} {FOLDER}", "SIGTERM", STAGES[name], TERMINATED, "resume=" if name == "training" else "")
        for name in ("start", "importing", "filling", "training", "validating", "testing")
    ),
    *(stage(f"{RUN} {FOLDER}", "SIGHUP", STAGES[name], HUNG_UP) for name in ("start", "training", "testing")),
    stage(f"train -m {SHORT_ARGS} seed=0,1", "SIGINT", STAGES["training"], INTERRUPTED),
    stage(f"train -m {SHORT_ARGS} seed=0,1", "SIGTERM", STAGES["training"], TERMINATED),
    stage(f"train -m {SHORT_ARGS} seed=0,1", "SIGINT", STAGES["building"], INTERRUPTED),
    stage("describe model=lenet", "SIGINT", "torch import", INTERRUPTED),
    stage("describe model=lenet", "SIGINT", "cnnzoo.describe.trace trace_layers", INTERRUPTED),
    stage("benchmark seconds=0.05", "SIGINT", "cnnzoo.benchmark.show run_data_benchmark", INTERRUPTED),
    stage("benchmark seconds=0.05", "SIGINT", "cnnzoo.training.classifier Classifier.training_step", INTERRUPTED),
]

CASES = [*PIPES, *PLACES, *ENVIRONMENT, *SIGNALS]
