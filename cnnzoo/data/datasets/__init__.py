"""Data sets: built-in images, folders of images, and torchvision's data sets."""
