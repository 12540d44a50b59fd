"""Rate and distortion of our models, of the usual codecs, of PCA and of CompressAI's models.

Usage: python benchmarks/compression.py --data FOLDER --work FOLDER [--only DATASET ...]
           [--cells rivals slow pca ours longer bmshj2018-factorized bmshj2018-hyperprior]
           [--seconds S] [--longer S] [--compressai PYTHON] [--report]

FOLDER after --data (or the environment variable COMPRESSOR_DATA) holds the files that
rate_distortion/datasets.py names. The work folder gets the images as arrays, models, and cells: a
small JSON file for each data set, method and setting, named by a hash of all that its figures
depend on but our own code and the machine: after a change of a plugin remove its cells and models.
What is there, or in benchmarks/results/compression.jsonl, is not measured again, so a run that was
stopped goes on. --report writes that file, and the tables (compression.md) and the plot beside it,
from the cells that there are.

CompressAI needs an environment of its own, since it wants NumPy below 2:

    python3.11 -m venv PLACE && PLACE/bin/pip install compressai==1.2.8 'numpy<2' torch==2.13.0
    python benchmarks/compression.py ... --compressai PLACE/bin/python
"""

if __name__ == "__main__":
    # Python 3.14 has a package `compression`, and a script's folder comes first on the path:
    # whoever imports that one gets this file, which must then do nothing.
    from rate_distortion.command import main

    main()
