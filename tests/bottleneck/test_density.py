"""Densities: what they cost, and that what lies far out can come back."""

from __future__ import annotations

import torch

from compressor.bottleneck.density import Density, bits_between


def test_bits_are_those_of_a_difference_of_sigmoids_wherever_that_can_be_told() -> None:
    lower = torch.linspace(-30, 20, 101, dtype=torch.float64)
    for width in (1e-3, 0.5, 10.0):
        p = torch.sigmoid(lower + width) - torch.sigmoid(lower)
        found = bits_between(lower.float(), (lower + width).float())
        torch.testing.assert_close(found.double(), -p.log2(), rtol=5e-3, atol=1e-3)


def test_far_out_a_gradient_leads_back() -> None:
    z = torch.tensor([-1000.0, -100.0, 100.0, 1000.0], requires_grad=True)
    bits_between(z - 0.5, z + 0.5).sum().backward()
    torch.testing.assert_close(
        z.grad, torch.tensor([-1.0, -1, 1, 1]) / torch.log(torch.tensor(2.0))
    )


def test_a_density_that_is_far_too_narrow_widens() -> None:
    """As one whose codes have spread while it looked elsewhere."""
    torch.manual_seed(0)
    density = Density(1)
    optimiser = torch.optim.Adam(density.parameters(), 0.02)
    codes = {"narrow": torch.zeros(256, 1), "wide": 40 * torch.randn(256, 1)}
    for name, steps in (("narrow", 300), ("wide", 600)):
        for _ in range(steps):
            optimiser.zero_grad()
            bits = density.bits(codes[name] + torch.rand(256, 1) - 0.5).mean()
            bits.backward()
            optimiser.step()
        if name == "narrow":
            assert density.bits(codes["wide"]).mean() > 50
    entropy = 0.5 * torch.log2(torch.tensor(2 * torch.pi * torch.e * 40.0**2))
    assert bits < entropy + 0.3
