"""Real images, and two models trained on them once for all tests."""

from __future__ import annotations

import os

# Before torch is imported, here and in subprocesses: on small networks threads wait for each other
# more than they work, above all on a machine that does something else besides.
os.environ["OMP_NUM_THREADS"] = "1"

import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from compressor.data.images import Pixels

if TYPE_CHECKING:
    from compressor.plugin import Autoencoder
    from compressor.training.checkpoint import State
    from compressor.training.loop import Loop

DATA = Path(__file__).parent.parent / "examples" / "data"


@pytest.fixture(scope="session", autouse=True)
def ctrl_c() -> Iterator[None]:
    """SIGINT interrupts, here and in children, even if a script that runs pytest with & ignores it.

    The program itself keeps ignoring what its parent ignores, as nohup has it.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def clothes() -> Pixels:
    """1,000 Fashion-MNIST images, uint8 (N, 28, 28, 1)."""
    return np.load(DATA / "fashion_mnist.npz")["test"][..., None]


@pytest.fixture(scope="session")
def letters() -> Pixels:
    """300 notMNIST images, uint8 (N, 28, 28, 1)."""
    return np.load(DATA / "notmnist.npz")["images"][..., None]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small fully convolutional model of clothes."""
    from compressor.verbs import train

    path = tmp_path_factory.mktemp("conv") / "model"
    settings = {"hidden": [8, 16], "latent": 2, "calibration": 0.2, "batch_size": 64}
    data = f"{DATA / 'fashion_mnist.npz'}::test"
    train("undercomplete", data, path, settings=settings, max_steps=120)
    return path


@pytest.fixture(scope="session")
def dense_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small dense model of clothes."""
    from compressor.verbs import train

    path = tmp_path_factory.mktemp("dense") / "model"
    settings = {"network": "dense", "hidden": [32], "latent": 12, "loss": "cross-entropy"}
    train(
        "undercomplete",
        f"{DATA / 'fashion_mnist.npz'}::test",
        path,
        settings=settings,
        max_steps=120,
    )
    return path


@pytest.fixture(scope="session")
def fit(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Loop]:
    """Trains a plugin in the loop alone, which takes a part of the time that an export takes.

    On all rows, to the last weights, and with a checkpoint at the end of each phase alone, unless
    settings of training say otherwise.
    """
    import torch

    from compressor.training.dataset import Dataset, split_rows
    from compressor.training.loop import Budget, Loop
    from compressor.training.settings import TrainingSettings

    def run(
        plugin: type[Autoencoder],
        rows: Pixels,
        steps: int,
        config: Mapping[str, Any],
        *,
        seed: int = 0,
        report: Callable[[Autoencoder, State], None] | None = None,
        **settings: Any,
    ) -> Loop:
        folder = tmp_path_factory.mktemp("fit")
        (folder / "rows.bin").write_bytes(rows.tobytes())
        defaults = {"validation": 0, "calibration": 0, "evaluate_every": 10**6}
        training = TrainingSettings(**{**defaults, **settings})
        data = Dataset(folder / "rows.bin", len(rows), rows.shape[1:], None, [])
        split = split_rows(len(rows), training.validation, training.calibration, seed)
        torch.manual_seed(seed)
        model = plugin(plugin.Config(**config), data.spec(split.training, training.standardise))

        def after_step(state: State, done: float, loss: float) -> None:
            if report:
                report(model, state)

        loop = Loop(model, training, data, split, Budget(steps), seed, folder, after_step)
        loop.run()
        return loop

    return run


@pytest.fixture(scope="session")
def foreign_network() -> Callable[..., Path]:
    """Writes another maker's classifier: float32 (N, C, side, side) -> 2 numbers, in opset 13."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    def write(path: Path, side: int = 8, channels: int = 1) -> Path:
        draw = np.random.default_rng(0)
        tensors = {
            "w": draw.normal(size=(5, channels, 3, 3)),
            "v": draw.normal(size=(2, 5)),
            "b": np.zeros(2),
        }
        nodes = [
            helper.make_node("Conv", ["input", "w"], ["map"], kernel_shape=[3, 3]),
            helper.make_node("Relu", ["map"], ["relu"]),
            helper.make_node("GlobalAveragePool", ["relu"], ["pool"]),
            helper.make_node("Flatten", ["pool"], ["flat"]),
            helper.make_node("Gemm", ["flat", "v", "b"], ["logits"], transB=1),
        ]
        graph = helper.make_graph(
            nodes,
            "foreign",
            [
                helper.make_tensor_value_info(
                    "input", TensorProto.FLOAT, ["N", channels, side, side]
                )
            ],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 2])],
            [numpy_helper.from_array(v.astype(np.float32), name) for name, v in tensors.items()],
        )
        opsets = [helper.make_opsetid("", 13)]
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
        return path

    return write
