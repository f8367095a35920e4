"""Publish the network of a finished run on the Hugging Face Hub, with a page that describes it.

Examples:
  python share.py run=latest repo=me/digits dry_run=true out=digits  write the files, to look at them first
  python share.py run=runs/digits/resnet18/... repo=me/digits        upload them to a public repository
  python share.py run=latest repo=me/digits private=true license=mit

Keys:
  run=DIR         the directory of a finished run, or latest
  trust_code=true import the code of the run's network, if it is your own (model=custom)
  repo=USER/NAME  the repository; it is created if it does not exist
  private=true    create a repository that only you can see
  license=NAME    the license that the card names, by an identifier of the Hub such as mit, apache-2.0 or other
  out=DIR         also write the files to this new directory
  dry_run=true    write the files to out=DIR, and upload nothing

The repository loads with cnnzoo.load_run("hf://USER/NAME"), cnnzoo.create_model(NETWORK, weights="hf://USER/NAME") and
run=hf://USER/NAME. Paths on this machine and the settings of loggers are left out of what is published. It needs
pip install "cnnzoo[hub]" and, once, hf auth login.
"""

import tempfile
from pathlib import Path

from omegaconf import DictConfig

from cnnzoo import cli
from cnnzoo.runtime.imports import imports_without_gc


def main(cfg: DictConfig) -> None:
    """Write the files of the repository, and upload them unless `cfg.dry_run`."""
    with imports_without_gc():  # here because torch takes seconds to load, and a misspelt key is reported without torch
        from cnnzoo.export import share
        from cnnzoo.models.custom import is_custom

    share.check_options(cfg)
    if not cfg.dry_run:
        share.check_login()
    net, run_dir = share.load_finished_run(cfg.run, trust_code=cfg.trust_code)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary if cfg.out is None else cfg.out)
        files = share.write_folder(folder, net, run_dir, cfg.repo, license_id=cfg.license)
        if cfg.out is not None:
            print(f"written   {', '.join(str(path) for path in files)}")
        if not cfg.dry_run:
            print(f"uploaded  {share.upload(folder, cfg.repo, private=cfg.private)}")
            trust = ", trust_code=True" if is_custom(dict(net.arguments)) else ""  # type: ignore[arg-type]
            print(f'load it   cnnzoo.load_run("hf://{cfg.repo}"{trust})')


def run() -> None:
    """Run the job with the arguments of the command line."""
    cli.run(main, job="share", help_text=__doc__ or "")


if __name__ == "__main__":
    run()
