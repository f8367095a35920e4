"""What the benchmarks compare cnnzoo with: loaders and training scripts of other projects.

`setup.sh NAME` makes the environment of a peer. A benchmark leaves out a peer whose environment is missing.
"""
