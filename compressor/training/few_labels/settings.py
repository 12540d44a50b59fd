"""The settings of a classifier's training."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class ClassifierSettings(BaseModel):
    """Everything but the seed, the budget and what is copied."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    layer: str = Field(
        "auto",
        description="of f, whose activations the head sees: code, or a hidden layer's name as "
        "'layer 1'; auto: the code and the last hidden layer",
    )
    width: int = Field(128, ge=0, le=65536, description="hidden units of the head; 0: it is linear")
    held_out: float = Field(
        0.1, ge=0, lt=1, description="share of the labels that judge, and set the temperature"
    )
    steps: int = Field(1500, ge=1, description="where neither steps nor time are limited")
    batch_size: int = Field(32, ge=1, description="labelled inputs a step")
    unlabelled: int = Field(64, ge=0, description="unlabelled inputs a step")
    consistency: float = Field(
        1.0, ge=0, description="weight of pseudo-labels' loss; 0: labels alone"
    )
    confidence: float = Field(
        0.95, gt=0, lt=1, description="how probable a label has to be to be a pseudo-label"
    )
    average: float = Field(
        0.99, ge=0, lt=1, description="decay of the teacher, the moving average of the weights"
    )
    learning_rate: float = Field(2e-3, gt=0, le=10, description="the highest of the schedule")
    weight_decay: float = Field(1e-3, ge=0, description="of AdamW")
    shift: float = Field(
        0.1, ge=0, le=0.5, description="of images: how far they are moved, as a part of the side"
    )
    rotation: float = Field(20.0, ge=0, le=180, description="of images: up to so many degrees")
    scale: float = Field(0.2, ge=0, lt=1, description="of images: up to so much larger or smaller")
    hidden_part: float = Field(
        0.3, ge=0, lt=1, description="the largest part of an input that is covered, or replaced"
    )
    flip: bool = Field(False, description="of images: left and right are alike")
    mean: list[float] = Field(
        [0.0], min_length=1, max_length=4, description="of an ONNX network's input, by channel"
    )
    deviation: list[Annotated[float, Field(gt=0)]] = Field(
        [1.0], min_length=1, max_length=4, description="that it is divided by, by channel"
    )
    channels: Literal["auto", "grey", "rgb"] = Field(
        "auto", description="auto: as images are; grey, rgb: all are converted"
    )
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = Field(
        "auto", description="of Lightning Fabric"
    )
