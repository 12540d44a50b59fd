"""Latent space: new codes from a density, paths and sums of codes, what each latent stands for."""
