"""The model half: train, evaluate and search on a data set from disk."""
