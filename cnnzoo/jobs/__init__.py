"""The jobs of the command line. Each module has a `main`, which takes the composed configuration.

A module's docstring is the help text of its job; `python -m cnnzoo.jobs.train` runs it.
"""

JOBS = ("train", "describe", "benchmark")
