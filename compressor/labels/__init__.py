"""Few labels: what is given as labels, classifiers on disk, and the verb ``classify``."""
