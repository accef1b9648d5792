"""The data set of (picture, pose) pairs: read, built, split."""
