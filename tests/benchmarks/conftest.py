import sys
from pathlib import Path

# At the end: Python 3.14 has a package of the same name as benchmarks/compression.py.
sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
