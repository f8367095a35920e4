"""Measure how good a trained network is, or several and their ensemble: accuracy, calibration, plots and a report.

`python evaluate.py --help` lists examples and keys. The code is in `cnnzoo/jobs/evaluate.py`.
"""

from cnnzoo import jobs

if __name__ == "__main__":
    jobs.run("evaluate")
