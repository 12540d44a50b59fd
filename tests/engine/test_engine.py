"""The engine: constant batches, devices, and the pipeline that keeps order and bounds."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from compressor.data.images import Pixels
from compressor.data.sources import open_source
from compressor.engine import providers
from compressor.engine.engine import Engine, batch_size
from compressor.engine.job import Job
from compressor.engine.pipeline import CHUNK_BYTES, CHUNKS_AHEAD, chunk_size, in_order
from compressor.engine.providers import choose_device
from compressor.errors import DataError, DeviceError
from compressor.model import Model


def test_an_image_is_coded_alike_whatever_stands_beside_it(model: Path, clothes: Pixels) -> None:
    engine = Engine(Model.open(model), "cpu")
    together = engine.encode(clothes[:200])
    assert together.dtype == np.int32 and together.shape == (200, 2, 7, 7)
    alone = np.concatenate([engine.encode(clothes[i : i + 1]) for i in range(20)])
    assert (together[:20] == alone).all()
    pixels = engine.decode(together, 28, 28)
    assert pixels.dtype == np.uint8
    assert (pixels[:7] == engine.decode(together[:7], 28, 28)).all()
    score = engine.score(clothes[:70])["l2"]
    assert (score[:3] == engine.score(clothes[:3])["l2"]).all()


def test_other_sizes_go_through_a_fully_convolutional_model(model: Path, clothes: Pixels) -> None:
    engine = Engine(Model.open(model), "cpu")
    wide = np.concatenate([clothes[:3], clothes[3:6]], axis=2)
    codes = engine.encode(wide)
    assert codes.shape == (3, 2, 7, 14)
    assert engine.decode(codes, 28, 56).shape == wide.shape


def test_arrays_that_a_model_does_not_take_are_refused(
    model: Path, dense_model: Path, clothes: Pixels
) -> None:
    wrong = [
        clothes[0],
        clothes[:3, ..., 0],
        clothes[:3].astype(np.float32),
        clothes[:3].astype(np.int64),
        clothes[:3].repeat(3, axis=3),
        clothes[:3, :0],
        np.zeros(5, np.float32),
        np.array(3),
        [[1, 2], [3, 4]],
        "clothes",
        None,
    ]
    for path in (model, dense_model):
        engine = Engine(Model.open(path), "cpu")
        for run in (engine.encode, engine.score, engine.further):
            for array in [*wrong, *([clothes[:3, :20]] if path == dense_model else [])]:
                with pytest.raises(DataError, match=r"the model takes uint8 \(N, .*this array is"):
                    run(array)
        codes = engine.encode(clothes[:3])
        assert engine.decode(codes, 28, 28).shape == (3, 28, 28, 1)
        for array in (codes[0], codes[:, :1], codes.astype(np.int64), codes[..., None], None):
            with pytest.raises(DataError, match=r"codes of 28x28 are int32 \(N, .*this array is"):
                engine.decode(array, 28, 28)
        with pytest.raises(DataError, match="no images of 0x28"):
            engine.decode(codes, 0, 28)
    with pytest.raises(DataError, match="codes of 56x28 are int32"):
        Engine(Model.open(model), "cpu").decode(np.zeros((3, 2, 7, 7), np.int32), 56, 28)


def test_no_images_have_no_answers(model: Path, dense_model: Path, clothes: Pixels) -> None:
    for path in (model, dense_model):
        engine = Engine(Model.open(path), "cpu")
        codes = engine.encode(clothes[:0])
        assert codes.shape == (0, *engine.encode(clothes[:1]).shape[1:])
        assert codes.dtype == np.int32
        assert engine.decode(codes, 28, 28).shape == (0, 28, 28, 1)
        for answers in (engine.score(clothes[:0]), engine.further(clothes[:0])):
            assert answers and all(len(answer) == 0 for answer in answers.values())


def test_every_batch_that_reaches_the_runtime_has_the_same_size(
    model: Path, clothes: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(Model.open(model), "cpu")
    session, seen = engine.session("encoder"), []

    class Watched:
        def get_inputs(self) -> object:
            return session.get_inputs()

        def get_outputs(self) -> object:
            return session.get_outputs()

        def run(self, names: list[str], inputs: dict[str, Pixels]) -> object:
            seen.append(len(inputs["image"]))
            return session.run(names, inputs)

    engine._sessions["encoder"] = Watched()
    assert len(engine.encode(clothes[:150])) == 150
    assert set(seen) == {batch_size(28, 28)} == {64}


def test_chunks_of_images_larger_than_those_trained_on_hold_fewer(model: Path) -> None:
    spec = Model.open(model).spec
    large = open_source(np.zeros((3, 2048, 2048, 1), np.uint8))
    assert chunk_size(spec, large) == CHUNK_BYTES // 2048**2 == 16
    assert chunk_size(spec, open_source(np.zeros((3, 28, 28, 1), np.uint8))) == 256


def test_a_small_first_image_does_not_make_large_chunks(
    model: Path, clothes: Pixels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = 3 * 56**2
    monkeypatch.setattr("compressor.data.decode.CHUNK_BYTES", limit)
    for number, image in enumerate(clothes[:20, :, :, 0]):
        Image.fromarray(np.kron(image, np.ones((2, 2), np.uint8)) if number else image).save(
            tmp_path / f"{number:02d}.png"
        )

    def seen(start: int) -> list[tuple[list[str], int]]:
        job = Job("encode", tmp_path, model, "cpu")
        job.chunk = 8
        sizes = job.run(lambda images: sum(g.pixels.size for g in images.groups), start=start)
        return [(images.names, size) for images, size in sizes]

    pieces = seen(0)
    assert [len(names) for names, _ in pieces] == [3, 3, 2, 3, 3, 2, 3, 1]
    assert all(size <= limit for _, size in pieces)
    assert [name for names, _ in pieces for name in names] == [f"{n:02d}.png" for n in range(20)]
    for done in range(1, len(pieces)):  # a job that is resumed sees the same pieces
        assert seen(sum(len(names) for names, _ in pieces[:done])) == pieces[done:]
    for start in range(1, 20):  # or, from amid one, what is left of it
        rest = seen(start)
        assert [name for names, _ in rest for name in names] == [
            f"{n:02d}.png" for n in range(start, 20)
        ]
        assert rest[1:] == pieces[len(pieces) - len(rest) + 1 :]


def test_batches_of_large_images_are_small() -> None:
    assert [batch_size(*size) for size in [(8, 8), (28, 28), (256, 256), (4000, 3000)]] == [
        256,
        64,
        1,
        1,
    ]


def test_auto_says_what_it_chose_and_why() -> None:
    device = choose_device("auto")
    assert device.name in ("cpu", "cuda")
    assert device.name == "cuda" or "cuda" in device.reason


@pytest.mark.parametrize("name", ["cuda", "tensorrt", "directml", "openvino", "abacus"])
def test_a_named_device_that_cannot_be_used_is_an_error(name: str) -> None:
    try:
        device = choose_device(name)
    except DeviceError as error:
        assert name in str(error) and "\n" not in str(error)
    else:
        assert device.name == name  # a machine that has it


def test_a_runtime_that_turns_to_the_cpu_in_silence_is_found_out(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Fallen:
        def get_providers(self) -> list[str]:
            return ["CPUExecutionProvider"]

    monkeypatch.setattr(providers.ort, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(providers, "_load_nvidia", lambda name: None)
    monkeypatch.setattr(providers.ort, "InferenceSession", lambda *args, **kwargs: Fallen())
    with pytest.raises(DeviceError, match="turned to CPUExecutionProvider"):
        choose_device("cuda")


def test_two_runtimes_side_by_side_are_warned_of_once_and_refused_for_a_gpu_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(providers.importlib.metadata, "distributions", lambda name: [name])
    providers._warn_once.cache_clear()
    assert choose_device("cpu").name == "cpu" and choose_device("auto").name in ("cpu", "cuda")
    assert caplog.text.count("both installed") == 1
    for name in ("cuda", "openvino"):
        with pytest.raises(DeviceError, match=r"both installed.*onnxruntime, which is enough"):
            choose_device(name)
    with pytest.raises(DeviceError, match="no device 'gpu'"):
        choose_device("gpu")


def test_results_keep_their_order_and_few_are_under_way() -> None:
    alive, most, lock = 0, 0, threading.Lock()

    def items() -> Iterator[int]:
        nonlocal alive, most
        for number in range(40):
            with lock:
                alive += 1
                most = max(most, alive)
            yield number

    def work(number: int) -> int:
        time.sleep(0.002 * (number % 3))
        return number * number

    results = []
    for result in in_order(work, items(), workers=3):
        with lock:
            alive -= 1
        results.append(result)
    assert results == [number * number for number in range(40)]
    assert most <= 3 + CHUNKS_AHEAD + 1


@pytest.mark.parametrize("stage", ["source", "work", "consumer"])
def test_an_error_in_any_stage_stops_the_job(stage: str) -> None:
    started: list[int] = []

    def items() -> Iterator[int]:
        for number in range(1000):
            if stage == "source" and number == 10:
                raise ValueError("source")
            yield number

    def work(number: int) -> int:
        started.append(number)
        if stage == "work" and number == 10:
            raise ValueError("work")
        return number

    threads = threading.active_count()
    with pytest.raises(ValueError, match=stage):
        for number in in_order(work, items(), workers=2):
            if stage == "consumer" and number == 10:
                raise ValueError("consumer")
    assert len(started) < 30
    assert threading.active_count() == threads
