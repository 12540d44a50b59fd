"""Plugins written for 0.4 import the building blocks from compressor.training."""

import importlib

import pytest

MOVED = {"blocks": "blocks", "networks": "autoencoders", "discriminator": "discriminator"}


@pytest.mark.parametrize(("old", "new"), MOVED.items())
def test_the_old_module_gives_the_same_objects(old, new):
    before = importlib.import_module(f"compressor.training.{old}")
    now = importlib.import_module(f"compressor.networks.{new}")
    public = {
        name
        for name, value in vars(now).items()
        if getattr(value, "__module__", None) == now.__name__ and not name.startswith("_")
    }
    assert public <= set(before.__all__)
    assert all(getattr(before, name) is getattr(now, name) for name in before.__all__)
