"""Write a network to a file that runs without cnnzoo, or to a much smaller one.

`python export.py --help` lists examples and keys. The code is in `cnnzoo/jobs/export.py`.
"""

from cnnzoo import jobs

if __name__ == "__main__":
    jobs.run("export")
