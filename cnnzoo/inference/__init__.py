"""Networks of the zoo, of a run or of a file, ready to use: with weights, preprocessing and class names."""
