"""What data look like on both sides of an autoencoder: frozen, JSON both ways.

Images are uint8 (H, W, C); vectors are float32 (D,). ``kind`` is also what the graphs call their
input and the decoder's output.
"""

from __future__ import annotations

import math
import os
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from .errors import ConfigError, UnreadableImage

SURELY_PIXELS = 1 << 26  # of an image: 8192 x 8192
MORE_PIXELS = "COMPRESSOR_MAX_PIXELS"  # in the environment, for those who have the memory
MAX_SIDE = (1 << 31) - 1  # pixels: what a frame's header and Parquet's int32 hold
MAX_STRIDE = 1 << 12  # pixels that a code element stands for, along each side
MAX_HALO = 1 << 12  # code elements
MAX_CODE = 1 << 28  # elements of a code


def max_pixels() -> int:
    """How many pixels an image may have; a work on one takes up to 40 bytes for each.

    Raises ConfigError if the environment names no number.
    """
    text = os.environ.get(MORE_PIXELS, "")
    if text and not (text.isascii() and text.isdigit()):
        raise ConfigError(f"{MORE_PIXELS}={text} in the environment is not a number of pixels")
    return max(SURELY_PIXELS, int(text or 0))


def refuse_pixels(height: int, width: int) -> None:
    """Raises UnreadableImage, with the reason alone, for an image of more than max_pixels."""
    if height * width > max_pixels():
        raise UnreadableImage(
            f"is {height}x{width}, more than {max_pixels():,} pixels: cut it into smaller ones, or "
            f"set {MORE_PIXELS}={height * width} in the environment where there are "
            f"{math.ceil(40 * height * width / 2**30)} GiB of memory for it"
        )


class ImageSpec(BaseModel):
    """The images a model takes: uint8, (height, width, channels).

    ``height`` and ``width`` are the size it was trained on. A fully convolutional model has a
    ``stride`` and takes any size; its graphs take multiples of the stride, to which images are
    padded on their way in. For others ``stride`` is None and the size is fixed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["image"] = "image"
    height: int = Field(ge=1, le=MAX_SIDE)
    width: int = Field(ge=1, le=MAX_SIDE)
    channels: Literal[1, 3, 4]
    stride: int | None = Field(default=None, ge=1, le=MAX_STRIDE)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of one image as it is stored."""
        return self.height, self.width, self.channels

    @property
    def elements(self) -> int:
        """Numbers in one image."""
        return self.height * self.width * self.channels

    @property
    def bytes_per_place(self) -> int:
        """Of a pixel, as it is stored."""
        return self.channels

    def shape_of(self, height: int, width: int) -> tuple[int, ...]:
        """The shape of an image of a size."""
        return height, width, self.channels

    def padded(self, stride: int) -> ImageSpec:
        """The same with sizes that the stride divides, up to which images are padded."""
        size = {
            "height": -(-self.height // stride) * stride,
            "width": -(-self.width // stride) * stride,
        }
        return self.model_copy(update=size)

    def check(self, shape: tuple[int, ...]) -> None:
        """Raises UnreadableImage, with the reason alone, unless an input of ``shape`` fits."""
        if len(shape) != 3:
            raise UnreadableImage("is a vector, the model takes images")
        height, width, channels = shape
        if not height or not width:
            raise UnreadableImage(f"is {height}x{width}: it has no pixels")
        refuse_pixels(height, width)
        if channels != self.channels:
            alpha = " with alpha" if channels == 4 else ""
            raise UnreadableImage(
                f"has {channels} channels{alpha}, the model takes {self.channels}"
            )
        if self.stride is None and (height, width) != (self.height, self.width):
            raise UnreadableImage(
                f"is {height}x{width}, the model takes {self.height}x{self.width} only"
            )


class VectorSpec(BaseModel):
    """The vectors a model takes: float32, (length,).

    The graphs work on (value - mean) / scale, ``mean`` and ``scale`` having one number a column,
    and give values back in the data's own units. ``columns`` names them, where they have names.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["vector"] = "vector"
    length: int = Field(ge=1)
    mean: tuple[Annotated[float, Field(allow_inf_nan=False)], ...]
    scale: tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...]
    columns: tuple[str, ...] | None = None
    stride: None = None

    @model_validator(mode="after")
    def _lengths_agree(self) -> VectorSpec:
        for numbers in (self.mean, self.scale, self.columns):
            if numbers is not None and len(numbers) != self.length:
                raise ValueError(f"mean, scale and columns must have {self.length} entries")
        return self

    @property
    def shape(self) -> tuple[int]:
        """Of one vector."""
        return (self.length,)

    @property
    def elements(self) -> int:
        """Numbers in one vector."""
        return self.length

    @property
    def channels(self) -> int:
        """Of a vector seen as an image, one row high."""
        return 1

    @property
    def bytes_per_place(self) -> int:
        """Of a float32."""
        return 4

    def shape_of(self, height: int, width: int) -> tuple[int, ...]:
        """The shape of a vector, which counts as ``height`` 1."""
        return (width,) if height == 1 else (height, width)

    def check(self, shape: tuple[int, ...]) -> None:
        """Raises UnreadableImage, with the reason alone, unless an input of ``shape`` fits."""
        if len(shape) != 1:
            raise UnreadableImage("is an image, the model takes vectors")
        if shape != self.shape:
            raise UnreadableImage(f"has {shape[0]} numbers, the model takes {self.length}")


def size_of(shape: tuple[int, ...]) -> tuple[int, int]:
    """The height and width of an image (H, W, C); a vector (D,) counts as one row."""
    return (1, shape[0]) if len(shape) == 1 else (shape[0], shape[1])


DataSpec = Annotated[ImageSpec | VectorSpec, Field(discriminator="kind")]


class CodeSpec(BaseModel):
    """The code of one input: integers of ``shape``, (K,) or (channels, height, width).

    ``shape`` belongs to an image of the size trained on; ``stride`` is DataSpec's. ``halo``: how
    many code elements away, up and down or left and right, anything in an image can still change
    a code element, or a code element a pixel; None where that is not known, or everywhere.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    shape: tuple[Annotated[int, Field(ge=1, le=MAX_CODE)], ...] = Field(min_length=1, max_length=3)
    stride: int | None = Field(default=None, ge=1, le=MAX_STRIDE)
    halo: int | None = Field(default=None, ge=0, le=MAX_HALO)

    @model_validator(mode="after")
    def _possible(self) -> CodeSpec:
        if len(self.shape) == 2 or (self.stride is not None and len(self.shape) == 1):
            raise ValueError(
                f"shape is {self.shape}; it must be (K,) or (channels, height, width), and the "
                "latter where there is a stride"
            )
        if math.prod(self.shape) > MAX_CODE:
            raise ValueError(f"shape is {self.shape}, which is more than {MAX_CODE} elements")
        return self

    @model_serializer(mode="wrap")
    def _without_unknown_halo(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Models from before there were halos, and their digests, stay as they are."""
        told: dict[str, Any] = serialise(self)
        return told if self.halo is not None else {k: v for k, v in told.items() if k != "halo"}

    def shape_for(self, height: int, width: int) -> tuple[int, ...]:
        """The shape of the code of an image of height x width pixels, in integers alone."""
        if self.stride is None:
            return self.shape
        return self.shape[0], -(-height // self.stride), -(-width // self.stride)
