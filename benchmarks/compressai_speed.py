"""CompressAI's entropy bottleneck around our network; run by throughput.py.

It imports nothing of compressor and runs in an environment with CompressAI. One JSON object on
stdout: images a second of compress() and of decompress(), as CompressAI's own models do it, a
string an image, in batches of 64.

Usage: python compressai_speed.py ENCODER.pt2 DECODER.pt2 IMAGES.npy
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import numpy as np
import torch
from compressai_cell import without_torchvision

BATCH = 64


def main() -> None:
    without_torchvision()
    from compressai.entropy_models import EntropyBottleneck

    f, g = (torch.export.load(path).module() for path in sys.argv[1:3])
    images = torch.from_numpy(np.load(sys.argv[3]))
    pieces = torch.split(images, BATCH)[:-1]  # whole batches
    with torch.no_grad():
        code = f(pieces[0])
        bottleneck: Any = EntropyBottleneck(code.shape[1])
        bottleneck.update(force=True)
        started = time.perf_counter()
        strings = [bottleneck.compress(f(piece)) for piece in pieces]
        middle = time.perf_counter()
        for string in strings:
            g(bottleneck.decompress(string, code.shape[2:]))
        ended = time.perf_counter()
    count = BATCH * len(pieces)
    rates = {"compress": count / (middle - started), "decompress": count / (ended - middle)}
    print(json.dumps(rates))


if __name__ == "__main__":
    main()
