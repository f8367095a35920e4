"""Measure, on your own data and machine, which cache and loader settings make training fastest. No run is saved.

`python benchmark.py --help` lists examples and keys. The code is in `cnnzoo/jobs/benchmark.py`.
"""

from cnnzoo import jobs

if __name__ == "__main__":
    jobs.run("benchmark")
