"""A Zarr v3 codec: an array of images whose chunks are stored through a model. Lossy.

    import zarr
    from compressor.zarr import AutoencoderCodec

    array = zarr.create_array(
        "clothes.zarr", shape=images.shape, chunks=(256, 28, 28, 1), dtype="uint8",
        serializer=AutoencoderCodec("clothes"), compressors=None,
    )
    array[:] = images  # uint8 (N, H, W, C), or (N, H, W) of a model of grey images

It is named ``compressor_autoencoder`` in the array's metadata, with the configuration
``{"model": path, "digest": hex}``, and found there by any program that has zarr and compressor
installed. The digest is the model's, as FORMAT.md beside the archive's reader says: another model
at that path is refused.

A chunk is a sequence of frames as FORMAT.md describes them, nothing between them, of 1 to 256
images each; a frame's number is the place of its first image in the chunk. Images that are the fill
value in every pixel are in no frame: padding of the last chunk costs nothing, and what was never
written comes back exactly. Writing a part of a chunk sends the chunk's other images through the
model again, which changes them: write whole chunks.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import numpy as np

from .archive.blocks import HEADER_SIZE, Header, images_per_block, numbered, pack, unpack
from .data.images import Pixels
from .engine.engine import Engine
from .errors import (
    ArchiveError,
    ConfigError,
    MissingDependency,
    ModelError,
    UnreadableImage,
    install,
)
from .model import Model
from .spec import size_of

try:
    from zarr.abc.codec import ArrayBytesCodec
except ImportError as error:
    raise MissingDependency(f"compressor.zarr needs Zarr: run {install('zarr')}") from error

__all__ = ["AutoencoderCodec", "use_model"]

NAME = "compressor_autoencoder"

_moved: dict[str, str] = {}  # where use_model found the model of a digest


def use_model(model: str | Path) -> str:
    """Lets this process find the model of arrays here, whatever path they name; returns its digest.

    Raises ModelError if there is no model.
    """
    digest = Model.open(model).digest
    _moved[digest] = str(model)
    return digest


@dataclass(frozen=True)
class AutoencoderCodec(ArrayBytesCodec):
    """Chunks uint8 (n, H, W, C) or, of grey images, (n, H, W), to frames of codes and back.

    ``model``: a model's path, as the metadata will name it; ``digest``: the digest that the model
    must have, by default that of the model at ``model``.

    Raises ModelError if the model is missing, damaged or another one, ConfigError if it or the
    chunks do not accept such images, ArchiveError if a chunk is damaged: no wrong pixels come out.
    """

    is_fixed_size = False
    model: str
    digest: str

    def __init__(self, model: str | Path, digest: str | None = None) -> None:
        object.__setattr__(self, "model", str(model))
        object.__setattr__(self, "digest", digest or Model.open(model).digest)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """From zarr.json; opens no model, so that metadata can be read without one."""
        settings = data.get("configuration")
        if not isinstance(settings, dict) or {*settings} != {"model", "digest"}:
            raise ConfigError(f"the codec {NAME} has the settings model and digest and no others")
        return cls(**settings)

    def to_dict(self) -> dict[str, Any]:
        return {"name": NAME, "configuration": {"model": self.model, "digest": self.digest}}

    def validate(self, *, shape: tuple[int, ...], dtype: Any, chunk_grid: Any) -> None:
        """Raises ConfigError unless chunks hold images that the model takes."""
        if dtype.to_native_dtype() != np.uint8:
            raise ConfigError(f"{NAME} stores uint8, not {dtype.to_native_dtype()}")
        try:
            model, _ = self._opened()
        except ModelError:
            return  # metadata can be read without a model; reading and writing chunks raise this
        _check_chunk(model, getattr(chunk_grid, "chunk_shape", shape))

    def compute_encoded_size(self, input_byte_length: int, _chunk_spec: Any) -> int:
        raise NotImplementedError("the size depends on the images")

    async def _encode_single(self, chunk_data: Any, chunk_spec: Any) -> Any:
        pixels, fill = chunk_data.as_numpy_array(), chunk_spec.fill_value
        content = await asyncio.to_thread(self._encode, pixels, fill)
        return chunk_spec.prototype.buffer.from_bytes(content)

    async def _decode_single(self, chunk_data: Any, chunk_spec: Any) -> Any:
        content, shape, fill = chunk_data.to_bytes(), chunk_spec.shape, chunk_spec.fill_value
        pixels = await asyncio.to_thread(self._decode, content, shape, fill)
        return chunk_spec.prototype.nd_buffer.from_numpy_array(pixels)

    def _encode(self, chunk: Pixels, fill: Any) -> bytes:
        model, engine = self._opened()
        pixels = chunk.reshape(_check_chunk(model, chunk.shape))
        height, width = size_of(pixels.shape[1:])
        kept = np.flatnonzero((pixels != fill).any((1, 2, 3)))
        if not len(kept):
            return b""
        codes = engine.encode(pixels[kept])
        frames = []
        for start, stop in _runs(kept.tolist(), images_per_block(codes.shape[1:])):
            frame, _ = pack(codes[start:stop], height, width, model.prior)
            frames.append(numbered(frame, int(kept[start]))[1])
        return b"".join(frames)

    def _decode(self, content: bytes, shape: tuple[int, ...], fill: Any) -> Pixels:
        model, engine = self._opened()
        pixels = np.full(_check_chunk(model, shape), fill, np.uint8)
        start = 0
        while start < len(content):
            header = Header.parse(content[start : start + HEADER_SIZE])
            if header is None:
                raise ArchiveError(f"a chunk is damaged: no sound frame begins at byte {start}")
            first, end = header.number, header.number + header.images
            stop = start + header.size + header.length
            if (header.height, header.width) != pixels.shape[1:3] or end > len(pixels):
                raise ArchiveError("a chunk does not have what the array's metadata says")
            try:
                codes, height, width = unpack(content[start:stop], model.prior, model.code)
            except ArchiveError as error:
                raise ArchiveError(f"images {first} to {end - 1} of a chunk: {error}") from error
            pixels[first:end] = engine.decode(codes, height, width)
            start = stop
        return pixels.reshape(shape)

    def _opened(self) -> tuple[Model, Engine]:
        return _opened(_moved.get(self.digest, self.model), self.digest)


@lru_cache(8)
def _opened(path: str, digest: str) -> tuple[Model, Engine]:
    """The model and its engine; once for all arrays, since a session takes long to make."""
    hint = f"say where the model {digest} is with compressor.zarr.use_model(PATH)"
    try:
        model = Model.open(path)
    except ModelError as error:
        raise ModelError(f"{error}; {hint}") from error
    if model.digest != digest:
        raise ModelError(f"{path} is not the model that the array was written with; {hint}")
    if model.spec.kind != "image":
        raise ConfigError(f"{path} is a model of vectors; {NAME} stores images")
    return model, Engine(model)


# Sessions must not be used after a fork.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_opened.cache_clear)


def _check_chunk(model: Model, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape (n, H, W, C) of a chunk; raises ConfigError if the model takes no such images."""
    full = (*shape, 1) if len(shape) == 3 else shape
    if len(full) != 4:
        raise ConfigError(
            f"chunks of {shape}: {NAME} takes (n, H, W, C), or (n, H, W) of grey images"
        )
    try:
        model.spec.check(full[1:])
    except UnreadableImage as error:
        raise ConfigError(f"chunks of {shape}: an image {error}") from error
    return full


def _runs(places: list[int], longest: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of runs of consecutive integers in ``places``, at most ``longest``."""
    start = 0
    for at in range(1, len(places) + 1):
        if at == len(places) or places[at] != places[at - 1] + 1 or at - start == longest:
            yield start, at
            start = at
