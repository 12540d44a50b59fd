"""Every built-in plugin keeps the contract, on images and vectors, dense and convolutional."""

from __future__ import annotations

from compressor.plugins.codec import Codec
from compressor.plugins.contractive import Contractive
from compressor.plugins.denoising import Denoising
from compressor.plugins.features import Features
from compressor.plugins.gan import GAN
from compressor.plugins.sparse import Sparse
from compressor.plugins.stacked import Stacked
from compressor.plugins.undercomplete import Undercomplete
from compressor.plugins.vae import VAE

from compressor.testing import Check, parametrize_with_checks


@parametrize_with_checks(
    [
        (Codec, {"widths": [8, 12], "depth": 1, "latent": 4}),
        (Undercomplete, {"hidden": [8]}),
        (Stacked, {"hidden": [24], "latent": 8, "training": "greedy"}),
        (Stacked, {"hidden": [8], "latent": 4, "network": "conv", "tied": False}),
        (Sparse, {"hidden": [8], "sparsity": "kl"}),
        (Sparse, {"network": "dense", "hidden": [], "latent": 32}),
        (Contractive, {"hidden": [24], "latent": 8}),
        (Contractive, {"latent": 4, "network": "conv", "jacobian": "hutchinson"}),
        (Denoising, {"hidden": [8], "noise": "salt-and-pepper"}),
        (Features, {"codebook": 64, "latent": 4}),
        (VAE, {"hidden": [8]}),
        (GAN, {"hidden": [16, 24], "latent": 4}),
    ]
)
def test_the_plugin_keeps_the_contract(check: Check) -> None:
    check()
