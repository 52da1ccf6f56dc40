"""What a detector is made of. Light on purpose: no torch here, since the command line loads it."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from fakesound.core.config import Config, describe_validation_error
from fakesound.core.errors import UserError

VISION_MAMBA_SIZES: dict[str, dict[str, int]] = {
    "micro": {"embed_dim": 96, "depth": 6},
    "tiny": {"embed_dim": 192, "depth": 24},
    "small": {"embed_dim": 384, "depth": 24},
    "base": {"embed_dim": 768, "depth": 24},
}
"""Widths and depths by name; tiny, small and base are ViM's (arXiv 2401.09417), micro trains on a CPU."""


class TokenNetworkConfig(Config):
    """What every model over patches of the mel image has.

    `patch_mels` x `patch_frames` is the patch; clips of more than `max_frames` frames are refused.
    `drop_path` is the stochastic depth of the last layer (rising linearly from zero at the first), `dropout`
    acts on what the two heads read.
    """

    embed_dim: int = Field(default=96, ge=8, le=4096)
    depth: int = Field(default=6, ge=1, le=96)
    patch_mels: int = Field(default=16, ge=1, le=1024)
    patch_frames: int = Field(default=16, ge=1, le=1024)
    max_frames: int = Field(default=1000, ge=1, le=100_000)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    drop_path: float = Field(default=0.05, ge=0, lt=1)


class VisionMambaConfig(TokenNetworkConfig):
    """A bidirectional selective state-space model: `d_state` states of each of `expand * embed_dim` channels,
    behind a convolution of `d_conv` taps.
    """

    kind: Literal["vim"] = "vim"
    d_state: int = Field(default=16, ge=1, le=64)
    expand: int = Field(default=2, ge=1, le=8)
    d_conv: int = Field(default=4, ge=1, le=8)

    @classmethod
    def of_size(cls, size: str, **values: Any) -> Self:
        """The preset `size` (micro, tiny, small, base) with `values` on top.

        Raises:
            UserError: unknown size, unknown key or a value out of range.
        """
        if size not in VISION_MAMBA_SIZES:
            raise UserError(f"no ViM size {size!r}; known: {', '.join(VISION_MAMBA_SIZES)}")
        return cls.parse(VISION_MAMBA_SIZES[size] | values)


class FCNResNetConfig(Config):
    """A residual network, fully convolutional over time.

    Stage i has `depths[i]` basic blocks of `widths[i]` channels; its first block divides the mel axis by two
    and the time axis by `time_strides[i]`. The stem divides both by two.
    """

    kind: Literal["fcn_resnet"] = "fcn_resnet"
    widths: tuple[int, ...] = (16, 32, 64, 128)
    depths: tuple[int, ...] = (1, 2, 2, 1)
    time_strides: tuple[int, ...] = (1, 2, 2, 1)
    dropout: float = Field(default=0.1, ge=0, lt=1)

    @model_validator(mode="after")
    def _check_stages(self) -> Self:
        if not len(self.widths) == len(self.depths) == len(self.time_strides) > 0:
            raise ValueError(
                "widths, depths and time_strides name one value a stage: give lists of one length"
            )
        if min(self.widths) < 1 or min(self.depths) < 1:
            raise ValueError("widths and depths are at least 1")
        if not set(self.time_strides) <= {1, 2}:
            raise ValueError("a time stride is 1 or 2")
        return self


ModelConfig = Annotated[VisionMambaConfig | FCNResNetConfig, Field(discriminator="kind")]


def parse_model_config(values: Mapping[str, Any]) -> ModelConfig:
    """The configuration that `values["kind"]` names.

    Raises:
        UserError: the kind or a key is unknown, or a value is out of range.
    """
    try:
        return TypeAdapter(ModelConfig).validate_python(dict(values))
    except ValidationError as error:
        raise UserError(f"model: {describe_validation_error(error)}") from None
