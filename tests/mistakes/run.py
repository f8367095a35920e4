"""Run every case on a checkout, and print the counts and the commands that are not answered helpfully.

python -m tests.mistakes.run [--root CHECKOUT] [--only PATTERN] [--parts PARTS] [--again FILE] [--jobs 2] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.helpers import ROOT
from tests.mistakes.case import Case
from tests.mistakes.cases import CASES
from tests.mistakes.places import create_files, create_runs
from tests.mistakes.runner import ADVICE, FAULTS, Result, Runner

PARTS = ("quick", "forks", "processes")
"""Cases that are reported before torch is imported; cases in forks of a process that has imported torch; and cases that
need a process of their own."""


def run_cases(root: Path, cases: list[Case], jobs: int) -> list[Result]:
    """Run the cases on the checkout `root`, `jobs` at the same time."""
    with tempfile.TemporaryDirectory(prefix="mistakes") as temporary:
        directory = Path(temporary)
        create_files(directory / "places")
        create_runs(root, directory / "places")
        local, runners, lock = threading.local(), [], threading.Lock()

        def run(case):
            if not hasattr(local, "runner"):
                with lock:
                    local.runner = Runner(root, directory / "places", directory / f"jobs{len(runners)}")
                    runners.append(local.runner)
            result = local.runner.run(case)
            with lock:
                print_faults(result)
            return result

        with ThreadPoolExecutor(jobs) as pool:
            results = list(pool.map(run, cases))
        for runner in runners:
            runner.close()
    return results


def print_faults(result: Result) -> None:
    """Print the faults of a result with its error, or else its last line."""
    if result.faults:
        lines = [line for line in result.output.splitlines() if line.strip()] or [""]
        shown = [line for line in lines if line.startswith("error: ")] or lines[-1:]
        print(f"{', '.join(result.faults)}: {str(result.case)!r} ({result.code}, {result.seconds:.1f} s)")
        print(f"    expected: {result.case.expected}\n    {shown[0][:400]}", flush=True)


def counts_line(results: list[Result]) -> str:
    """The number of results with each fault."""
    counts = Counter(fault for result in results for fault in result.faults)
    return f"{len(results)} cases: " + ", ".join(f"{counts[fault]} {fault}" for fault in (*FAULTS, *ADVICE))


def _part(case: Case) -> str:
    return "quick" if case.quick else "forks" if case.forks else "processes"


def main() -> None:
    """Parse the command line, run the cases, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout to try")
    parser.add_argument("--only", default="", help="a regular expression that the command matches")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"any of {', '.join(PARTS)}")
    parser.add_argument("--again", type=Path, help="only the cases that have a fault in this file, written by --json")
    parser.add_argument("--jobs", type=int, default=2, help="commands to run at the same time")
    parser.add_argument("--json", type=Path, help="file for all results")
    arguments = parser.parse_args()
    again = None
    if arguments.again:
        again = {result["case"] for result in json.loads(arguments.again.read_text()) if result["faults"]}
    cases = [
        case
        for case in CASES
        if re.search(arguments.only, str(case))
        and _part(case) in arguments.parts.split(",")
        and (again is None or str(case) in again)
    ]
    results = run_cases(arguments.root.resolve(), cases, arguments.jobs)
    print(counts_line(results))
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps([result.as_dict() for result in results], indent=1))


if __name__ == "__main__":
    main()
