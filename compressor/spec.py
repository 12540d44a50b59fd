"""What data look like on both sides of an autoencoder: frozen, JSON both ways."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from .errors import UnreadableImage


class DataSpec(BaseModel):
    """The images a model takes: uint8, (height, width, channels).

    ``height`` and ``width`` are the size it was trained on. A fully convolutional model has a
    ``stride`` and takes any size that the stride divides; for others ``stride`` is None and the
    size is fixed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["image"] = "image"
    height: int = Field(ge=1)
    width: int = Field(ge=1)
    channels: Literal[1, 3, 4]
    stride: int | None = Field(default=None, ge=1)

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.height, self.width, self.channels

    @property
    def elements(self) -> int:
        """Numbers in one image."""
        return self.height * self.width * self.channels

    def check(self, shape: tuple[int, ...]) -> None:
        """Raises UnreadableImage, with the reason alone, unless an image of ``shape`` fits."""
        height, width, channels = shape
        if channels != self.channels:
            raise UnreadableImage(f"has {channels} channels, the model takes {self.channels}")
        if self.stride is None:
            if (height, width) != (self.height, self.width):
                raise UnreadableImage(
                    f"is {height}x{width}, the model takes {self.height}x{self.width} only"
                )
        elif height % self.stride or width % self.stride:
            raise UnreadableImage(
                f"is {height}x{width}, the model takes sizes divisible by {self.stride}"
            )


class CodeSpec(BaseModel):
    """The code of one image: integers of ``shape``, (K,) or (channels, height, width).

    ``shape`` belongs to an image of the size trained on; ``stride`` is DataSpec's.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    shape: tuple[int, ...] = Field(min_length=1, max_length=3)
    stride: int | None = Field(default=None, ge=1)

    def shape_for(self, height: int, width: int) -> tuple[int, ...]:
        """The shape of the code of an image of height x width pixels, in integers alone."""
        if self.stride is None:
            return self.shape
        return self.shape[0], height // self.stride, width // self.stride
