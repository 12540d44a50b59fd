"""Autoencoders that compress image datasets, score anomalies and run as plain ONNX.

The verbs of the command line are functions of the same names in ``compressor.verbs``.
"""

__version__ = "0.4.0"
