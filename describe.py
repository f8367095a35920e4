"""Show a network layer by layer, two kinds of blocks compared, or a table of all networks. Nothing is trained.

`python describe.py --help` lists examples and keys. The code is in `cnnzoo/jobs/describe.py`.
"""

from cnnzoo import jobs

if __name__ == "__main__":
    jobs.run("describe")
