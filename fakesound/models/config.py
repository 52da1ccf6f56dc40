"""What a detector is made of. Light on purpose: no torch here, since the command line loads it."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

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

TRANSFORMER_SIZES: dict[str, dict[str, int]] = {
    "micro": {"embed_dim": 96, "depth": 4, "num_heads": 3},
    "tiny": {"embed_dim": 192, "depth": 12, "num_heads": 3},
    "small": {"embed_dim": 384, "depth": 12, "num_heads": 6},
}
"""tiny and small are DeiT's (arXiv 2012.12877). A layer has twice the parameters of ViM's: half the depth."""

MAMBA2_SIZES: dict[str, dict[str, int]] = {
    "micro": {"embed_dim": 96, "depth": 6, "num_heads": 6},
    "tiny": {"embed_dim": 192, "depth": 24, "num_heads": 6},
    "small": {"embed_dim": 384, "depth": 24, "num_heads": 12},
}
"""ViM's widths and depths; heads of 64 channels, as Mamba-2 has them (of 32 in micro)."""

EMBED_DIM_RANGE = (8, 4096)
WIDTH_MULTIPLIER_RANGE = (0.05, 16.0)

FCN_RESNET_SIZES: dict[str, dict[str, Any]] = {
    "micro": {"block": "basic", "widths": (16, 32, 64, 128), "depths": (1, 2, 2, 1)},
    "18": {"block": "basic", "widths": (64, 128, 256, 512), "depths": (2, 2, 2, 2)},
    "50": {"block": "bottleneck", "widths": (64, 128, 256, 512), "depths": (3, 4, 6, 3)},
}
"""Blocks, widths and depths by name; 18 and 50 are ResNet's (arXiv 1512.03385), micro trains on a CPU."""


class SizedConfig(Config):
    """A model that comes in sizes with names: those of `SIZES`."""

    SIZES: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    @classmethod
    def of_size(cls, size: str, **values: Any) -> Self:
        """The preset `size` (a key of `SIZES`) with `values` on top.

        Raises:
            UserError: unknown size, unknown key or a value out of range.
        """
        if size not in cls.SIZES:
            kind = cls.model_fields["kind"].default
            raise UserError(f"no size {size!r} of {kind}; known: {', '.join(cls.SIZES)}")
        return cls.parse({**cls.SIZES[size], **values})


class TokenNetworkConfig(SizedConfig):
    """What every model over patches of the mel image has.

    `embed_dim` is the width, by which a model is made as large as another one.

    `patch_mels` x `patch_frames` is the patch. A patch starts every `stride_mels` mels and `stride_frames`
    frames: as many as the patch has when they are None, fewer for patches that overlap. Clips of more than
    `max_frames` frames are refused.

    `clip_pooling` is what the clip head reads: a class token in the middle of the clip's own tokens, or all
    its patches through their mean, their maximum or a learned weighted mean.

    `sequence_head_depth` further blocks of the model's own kind stand between the patches and the frame head;
    `sequence_head_residual` adds the patch embedding to what enters them.

    `drop_path` is the stochastic depth of the last layer (rising linearly from zero at the first), `dropout`
    acts on what the two heads read.
    """

    embed_dim: int = Field(default=96, ge=EMBED_DIM_RANGE[0], le=EMBED_DIM_RANGE[1])
    depth: int = Field(default=6, ge=1, le=96)
    patch_mels: int = Field(default=16, ge=1, le=1024)
    patch_frames: int = Field(default=16, ge=1, le=1024)
    stride_mels: int | None = Field(default=None, ge=1)
    stride_frames: int | None = Field(default=None, ge=1)
    max_frames: int = Field(default=1000, ge=2, le=100_000)
    clip_pooling: Literal["class_token", "mean", "max", "attention"] = "class_token"
    sequence_head_depth: int = Field(default=0, ge=0, le=96)
    sequence_head_residual: bool = False
    dropout: float = Field(default=0.1, ge=0, lt=1)
    drop_path: float = Field(default=0.05, ge=0, lt=1)

    @property
    def step_mels(self) -> int:
        """Mels from one patch to the next."""
        return self.stride_mels or self.patch_mels

    @property
    def step_frames(self) -> int:
        """Frames from one patch to the next."""
        return self.stride_frames or self.patch_frames

    @model_validator(mode="after")
    def _check_options(self) -> Self:
        if self.step_mels > self.patch_mels or self.step_frames > self.patch_frames:
            raise ValueError("a stride longer than its patch would leave gaps: make it at most the patch")
        if self.sequence_head_residual and not self.sequence_head_depth:
            raise ValueError("sequence_head_residual needs a sequence head: set sequence_head_depth")
        return self

    @property
    def width_step(self) -> int:
        """What `widened` makes the width a multiple of."""
        return 4

    def widened(self, factor: float) -> Self:
        """This model with `factor` times the width, as near as its fields allow; nothing else changes."""
        step = self.width_step
        low, high = -(-EMBED_DIM_RANGE[0] // step), EMBED_DIM_RANGE[1] // step
        steps = min(max(round(factor * self.embed_dim / step), low), high)
        return self.parse(self.model_dump() | {"embed_dim": steps * step})


class VisionMambaConfig(TokenNetworkConfig):
    """A bidirectional selective state-space model: `d_state` states of each of `expand * embed_dim` channels,
    behind a convolution of `d_conv` taps.
    """

    SIZES = VISION_MAMBA_SIZES

    kind: Literal["vim"] = "vim"
    d_state: int = Field(default=16, ge=1, le=64)
    expand: int = Field(default=2, ge=1, le=8)
    d_conv: int = Field(default=4, ge=1, le=8)


class MultiHeadConfig(TokenNetworkConfig):
    """A model over patches whose `num_heads` heads share the width, which they must divide."""

    num_heads: int = Field(default=3, ge=1, le=256)

    @model_validator(mode="after")
    def _check_heads(self) -> Self:
        if self.embed_dim % self.num_heads:
            raise ValueError(
                f"embed_dim {self.embed_dim} is not shared equally by {self.num_heads} heads: "
                "make it a multiple of num_heads"
            )
        return self

    @property
    def width_step(self) -> int:
        """One channel more of every head."""
        return self.num_heads


class TransformerConfig(MultiHeadConfig):
    """A transformer encoder."""

    SIZES = TRANSFORMER_SIZES

    kind: Literal["transformer"] = "transformer"
    depth: int = Field(default=4, ge=1, le=96)


class Mamba2Config(MultiHeadConfig):
    """A bidirectional state-space model whose decay is one number a head: `d_state` states of each of
    `expand * embed_dim` channels, which the heads share, behind a convolution of `d_conv` taps.
    """

    SIZES = MAMBA2_SIZES

    kind: Literal["mamba2"] = "mamba2"
    num_heads: int = Field(default=6, ge=1, le=256)
    d_state: int = Field(default=64, ge=1, le=256)
    expand: int = Field(default=2, ge=1, le=8)
    d_conv: int = Field(default=4, ge=1, le=8)


class ConvNetworkConfig(Config):
    """What every convolutional model has.

    `width_multiplier` scales the channels of every layer, and is the one number to turn for a smaller or
    larger model: weights grow with about its square. `dropout` acts on what the two heads read.
    """

    width_multiplier: float = Field(default=1.0, ge=WIDTH_MULTIPLIER_RANGE[0], le=WIDTH_MULTIPLIER_RANGE[1])
    dropout: float = Field(default=0.1, ge=0, lt=1)

    def scaled(self, num_channels: int) -> int:
        """The channels of a layer that has `num_channels` at a multiplier of one; at least one."""
        return max(1, round(num_channels * self.width_multiplier))

    def widened(self, factor: float) -> Self:
        """This model with `factor` times the width, to three decimals of its multiplier."""
        low, high = WIDTH_MULTIPLIER_RANGE
        multiplier = min(max(round(factor * self.width_multiplier, 3), low), high)
        return self.parse(self.model_dump() | {"width_multiplier": multiplier})


class FCNResNetConfig(ConvNetworkConfig, SizedConfig):
    """A residual network, fully convolutional over time.

    Stage i has `depths[i]` blocks of `widths[i]` channels (bottleneck blocks give out four times as many);
    its first block divides the mel axis by two and the time axis by `time_strides[i]`. The stem divides both
    by two.
    """

    SIZES = FCN_RESNET_SIZES

    kind: Literal["fcn_resnet"] = "fcn_resnet"
    block: Literal["basic", "bottleneck"] = "basic"
    widths: tuple[int, ...] = (16, 32, 64, 128)
    depths: tuple[int, ...] = (1, 2, 2, 1)
    time_strides: tuple[int, ...] = (1, 2, 2, 1)

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


class DeepLabMobileNetConfig(ConvNetworkConfig):
    """DeepLabV3 on a dilated MobileNetV3-Large.

    `aspp_dropout` acts on what the atrous spatial pyramid gives out.
    """

    kind: Literal["deeplab_mobilenet"] = "deeplab_mobilenet"
    aspp_dropout: float = Field(default=0.5, ge=0, lt=1)


class LCNNConfig(ConvNetworkConfig):
    """A light CNN with max-feature-map activations.

    Each of its four poolings divides the mel axis by two and the time axis by its own of `time_strides`.
    """

    kind: Literal["lcnn"] = "lcnn"
    time_strides: tuple[Literal[1, 2], Literal[1, 2], Literal[1, 2], Literal[1, 2]] = (2, 2, 1, 1)


ModelConfig = Annotated[
    VisionMambaConfig
    | TransformerConfig
    | Mamba2Config
    | FCNResNetConfig
    | DeepLabMobileNetConfig
    | LCNNConfig,
    Field(discriminator="kind"),
]


def parse_model_config(values: Mapping[str, Any]) -> ModelConfig:
    """The configuration that `values["kind"]` names.

    Raises:
        UserError: the kind or a key is unknown, or a value is out of range.
    """
    try:
        return TypeAdapter(ModelConfig).validate_python(dict(values))
    except ValidationError as error:
        raise UserError(f"model: {describe_validation_error(error)}") from None


def model_presets() -> dict[str, ModelConfig]:
    """A configuration of every kind and size, by `kind` or `kind size`."""
    presets: dict[str, ModelConfig] = {}
    for config_class in get_args(get_args(ModelConfig)[0]):
        kind = config_class.model_fields["kind"].default
        sizes = config_class.SIZES if issubclass(config_class, SizedConfig) else {}
        named = {f"{kind} {size}": values for size, values in sizes.items()} or {kind: {}}
        presets |= {name: parse_model_config({"kind": kind, **values}) for name, values in named.items()}
    return presets


class BudgetConfig(Config):
    """How large models are made, by their width alone: one of these is given.

    Attributes:
        parameters: trainable numbers of the detector and of the baseline.
        gflops: 1e9 floating-point operations of either on ten seconds, see `models.budget.count_flops`.
        match: the baseline is made as large as the detector, counted in this; the detector stays as it is.
    """

    parameters: int | None = Field(default=None, gt=0)
    gflops: float | None = Field(default=None, gt=0)
    match: Literal["parameters", "gflops"] | None = None

    @model_validator(mode="after")
    def _one_is_given(self) -> Self:
        if sum(value is not None for value in (self.parameters, self.gflops, self.match)) != 1:
            raise ValueError("give one of parameters, gflops and match")
        return self
