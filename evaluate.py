"""Measure how good trained networks and ensembles are: accuracy, calibration, plots and a report.

`python evaluate.py --help` lists examples and keys. The code is in `cnnzoo/jobs/evaluate.py`.
"""

from cnnzoo import jobs

if __name__ == "__main__":
    jobs.run("evaluate")
