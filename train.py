"""Train a network on images, test its best checkpoint, and save everything in a run directory.

`python train.py --help` lists examples and keys. The code is in `cnnzoo/jobs/train.py`.
"""

from cnnzoo import jobs

if __name__ == "__main__":
    jobs.run("train")
