"""Running `benchmark.py` in the test's process."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra

from cnnzoo import cli
from cnnzoo.jobs import benchmark


@dataclass
class Outcome:
    """The contents of the JSON file, and what was printed and logged."""

    contents: dict[str, Any]
    output: str


class BenchmarkJob:
    """`run("job=graph", ...)` runs the job in the test's process, in an empty directory."""

    def __init__(self, directory: Path, capsys, monkeypatch, caplog) -> None:
        self.directory, self.capsys, self.monkeypatch, self.caplog = directory, capsys, monkeypatch, caplog
        monkeypatch.chdir(directory)
        monkeypatch.setenv("COLUMNS", "120")

    def run(self, *overrides: str) -> Outcome:
        cfg = self.compose(*overrides)
        self.capsys.readouterr()
        self.caplog.clear()
        with self.caplog.at_level("INFO"):
            benchmark.main(cfg)
        output = self.capsys.readouterr().out + "\n".join(record.getMessage() for record in self.caplog.records)
        contents = json.loads(Path(cfg.json).read_text()) if cfg.json is not None else {}
        return Outcome(contents, output)

    def compose(self, *overrides: str) -> Any:
        """The configuration for a command line whose keys the job sees as typed."""
        typed = [override.lstrip("+~").partition("=")[0] for override in overrides]
        self.monkeypatch.setattr(cli, "typed_keys", lambda: typed)
        prepared, _ = cli.prepare([*overrides], job="benchmark", help_text="")
        with hydra.initialize_config_dir(str(cli.CONF), version_base="1.3"):
            return hydra.compose("benchmark", overrides=prepared)
