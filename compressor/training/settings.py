"""The settings of training that belong to the core; they stand beside a plugin's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..errors import ConfigError
from ..manifests import first_problem
from ..registry import describe_config

Settings = TypeVar("Settings", bound=BaseModel)


class TrainingSettings(BaseModel):
    """Everything but the seed and the budget, which the command line takes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    batch_size: int = Field(128, ge=1, description="inputs a step")
    epochs: int = Field(50, ge=1, description="where neither steps nor time are limited")
    optimiser: Literal["adam", "adamw", "sgd"] = Field("adam", description="sgd has momentum 0.9")
    learning_rate: float = Field(2e-3, gt=0, le=10, description="the highest of the schedule")
    weight_decay: float = Field(0.0, ge=0, description="of the optimiser")
    schedule: Literal["cosine", "constant"] = Field("cosine", description="after the warm-up")
    warmup_steps: int = Field(50, ge=0, description="steps of linear warm-up in each phase")
    clip_norm: float | None = Field(1.0, gt=0, description="largest norm of the gradients")
    evaluate_every: int | None = Field(
        None,
        ge=1,
        description="steps between validations; null: an epoch, but 20 at least and 500 at most",
    )
    patience: int = Field(10, ge=1, description="validations without a better loss before a stop")
    validation: float = Field(0.1, ge=0, lt=0.5, description="share of inputs for early stopping")
    calibration: float = Field(
        0.1, ge=0, lt=0.5, description="share of inputs for the scores' threshold"
    )
    rate: float | None = Field(
        None,
        gt=0,
        description="lambda: what a bit may cost in distortion; the quantiser and the prior are "
        "then trained along with f and g",
    )
    quality: float | None = Field(
        None, gt=0, le=100, description="PSNR in dB at which training aims, in place of rate"
    )
    bits: float | None = Field(
        None,
        gt=0,
        description="or bits per pixel (of vectors: per number) at which it aims",
    )
    prior: Literal["factorised", "hyperprior"] = Field(
        "hyperprior",
        description="with a rate: one density a channel, or one for each element, by a few "
        "integers that are sent first",
    )
    rounding_loss: float = Field(
        0.5, gt=0, le=10, description="without a rate: PSNR in dB that rounding codes may cost"
    )
    weight_loss: float = Field(
        0.04, gt=0, le=10, description="PSNR in dB that rounding the weights may cost"
    )
    crop: int | None = Field(
        None,
        ge=1,
        description="side of the random crops that images are trained on; images may then differ "
        "in size; null: whole images, all of one size",
    )
    channels: Literal["auto", "grey", "rgb"] = Field(
        "auto",
        description="auto: as images are, all alike; grey, rgb: all are converted, opaque alpha is "
        "dropped",
    )
    standardise: bool = Field(
        True, description="vectors: (value - mean) / deviation of each column, inside the graphs"
    )
    discriminator: bool = Field(
        False, description="train one on x and g(f(x)), in a last phase, as a further scorer"
    )
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = Field(
        "32-true", description="of Lightning Fabric"
    )
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = Field(
        "auto", description="of Lightning Fabric"
    )
    devices: int = Field(1, ge=1, description="how many of them")

    @model_validator(mode="after")
    def _one_aim(self) -> TrainingSettings:
        if sum(aim is not None for aim in (self.rate, self.quality, self.bits)) > 1:
            raise ValueError("rate, quality and bits are three ways to say one thing: give one")
        return self

    @property
    def aims(self) -> bool:
        """Whether lambda is to be found."""
        return self.quality is not None or self.bits is not None

    @property
    def rate_distortion(self) -> bool:
        """Whether the bottleneck is trained along."""
        return self.rate is not None or self.aims


def split_settings(
    values: Mapping[str, Any], config: type[BaseModel], plugin: str
) -> tuple[BaseModel, TrainingSettings]:
    """Sorts settings into the plugin's Config and TrainingSettings, both checked.

    Raises ConfigError that names the field, the value and what is allowed.
    """
    ours, theirs = set(TrainingSettings.model_fields), set(config.model_fields)
    if clash := ours & theirs:
        raise ConfigError(
            f"plugin {plugin!r} declares {', '.join(sorted(clash))}, which are settings of "
            "training; its author must rename them"
        )
    for name in values:
        if name not in ours | theirs:
            raise ConfigError(
                f"there is no setting {name!r}; plugin {plugin!r} has "
                f"{', '.join(sorted(theirs))} and training has {', '.join(sorted(ours))}"
            )
    return (
        checked(config, {k: v for k, v in values.items() if k in theirs}),
        checked(TrainingSettings, {k: v for k, v in values.items() if k in ours}),
    )


def checked(model: type[Settings], values: dict[str, Any]) -> Settings:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        field, problem = first_problem(error)
        name = field.partition(".")[0]
        fields = {f["name"]: f for f in describe_config(model.model_json_schema())}
        allowed = _allowed(fields[name]) if name in fields else ""
        given = error.errors()[0]["input"]
        raise ConfigError(f"{field}={given!r}: {problem}{allowed}") from error


def _allowed(field: dict[str, Any]) -> str:
    parts = [str(field["type"])]
    if "items" in field:
        parts.append("of " + ", ".join(f"{k} {v}" for k, v in field["items"].items()))
    words = {
        "minimum": "at least",
        "maximum": "at most",
        "above": "above",
        "below": "below",
        "allowed": "one of",
        "min_items": "items: at least",
        "max_items": "items: at most",
    }
    parts += [f"{word} {field[key]}" for key, word in words.items() if key in field]
    return f" (allowed: {', '.join(parts)})"
