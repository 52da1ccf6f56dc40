"""What determines a corpus, beside the recordings themselves."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

from pydantic import Field, field_validator, model_validator

from fakesound.attacks.chain import OFF, ChainConfig
from fakesound.attacks.command import CommandConfig
from fakesound.core.audio import MIN_DURATION_S
from fakesound.core.config import Config
from fakesound.core.schemas import PARTITIONS
from fakesound.corpora.masks import Placement

if TYPE_CHECKING:
    from fakesound.attacks.base import Attack


class Shares(Config):
    """Share of the clip seconds that each partition is to have; they add up to 1."""

    train: float = Field(default=0.46, gt=0, lt=1)
    validation: float = Field(default=0.12, gt=0, lt=1)
    validation_unseen: float = Field(default=0.12, gt=0, lt=1)
    test: float = Field(default=0.30, gt=0, lt=1)

    @model_validator(mode="after")
    def _add_up(self) -> Self:
        total = sum(self.of(name) for name in PARTITIONS)
        if abs(total - 1) > 1e-6:
            raise ValueError(f"the shares add up to {total:g}, not 1")
        return self

    def of(self, partition: str) -> float:
        """The share of one partition."""
        return float(getattr(self, partition))


class Protocol(Config):
    """Which attack families play which part. No mechanism is both seen in training and unseen.

    Attributes:
        seen: forge the train and validation partitions, and the easy and hard views.
        validation_unseen: forge the partition on which every choice about generalisation is made.
        test_unseen: forge the zeroshot view.
        apart: forge the splice view, reported apart from the headline (the label is a matter of definition).
    """

    seen: tuple[str, ...] = ("griffin_lim", "phase_randomisation", "autoregressive")
    validation_unseen: tuple[str, ...] = ("granular",)
    test_unseen: tuple[str, ...] = ("noise_vocoder", "lpc_vocoder")
    apart: tuple[str, ...] = ("splice",)

    @property
    def families(self) -> tuple[str, ...]:
        """Every family that plays a part."""
        return (*self.seen, *self.validation_unseen, *self.test_unseen, *self.apart)

    def check(self, commands: Sequence[CommandConfig]) -> None:
        """Check that every family exists, has one part, and that no mechanism has two.

        Raises:
            UserError: there is no such family among ours, the plug-ins' and the commands'.
            ValueError: the parts overlap, one is empty, or corpora cannot be forged with a family.
        """
        from fakesound.attacks.copy_move import COPY_MOVE
        from fakesound.attacks.registry import get_attack

        played: dict[str, str] = {}
        for part in type(self).model_fields:
            families = getattr(self, part)
            if not families:
                raise ValueError(f"{part} names no attack family")
            if len(set(families)) != len(families):
                raise ValueError(f"{part} names a family twice")
            for mechanism in {get_attack(family, commands).mechanism for family in families}:
                if mechanism == COPY_MOVE.mechanism:
                    raise ValueError(
                        f"{part} forges with {mechanism}, which makes the genuine splices: one sound would "
                        "have both labels (docs/decisions/0002-what-counts-as-forged.md). Name another family"
                    )
                if mechanism in played:
                    raise ValueError(f"mechanism {mechanism!r} is in both {played[mechanism]} and {part}")
                played[mechanism] = part


class BuiltinConfig(Config):
    """The generated recordings, used when no folder of recordings is given."""

    num_recordings: int = Field(default=200, ge=20, le=5000)
    min_duration_s: float = Field(default=2.5, ge=1.0)
    max_duration_s: float = Field(default=4.5, le=30.0)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_duration_s > self.max_duration_s:
            raise ValueError("min_duration_s exceeds max_duration_s")
        return self


class SceneConfig(Config):
    """Scenes mixed from the recordings, see `scenes`.

    Attributes:
        sources_per_block: independent sources, at least, that share a block. Each partition is dealt into as
            many blocks as its sources allow, and a block is the unit of the bootstrap: the more sources a
            block has, the more varied its scenes, and the wider every interval.
        scenes_per_block: scenes mixed from the sources of one block.
        min_events, max_events: sounds over a scene's bed; the number is uniform between them.
        min_event_level_db, max_event_level_db: RMS of an event relative to that of the bed, dB; uniform.
        reverberation_probability: that an event is heard in a room of its own.
    """

    sources_per_block: int = Field(default=8, ge=2)
    scenes_per_block: int = Field(default=4, ge=1, le=1000)
    min_events: int = Field(default=3, ge=1)
    max_events: int = Field(default=8, le=100)
    min_event_level_db: float = Field(default=3.0, ge=-20.0)
    max_event_level_db: float = Field(default=30.0, le=40.0)
    reverberation_probability: float = Field(default=0.3, ge=0, le=1)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_events > self.max_events:
            raise ValueError("min_events exceeds max_events")
        if self.min_event_level_db > self.max_event_level_db:
            raise ValueError("min_event_level_db exceeds max_event_level_db")
        return self


class CorpusConfig(Config):
    """What determines a corpus, beside the recordings.

    Attributes:
        seed: draws partitions, masks, attacks.
        clip_s: clips are at most this long, seconds; longer recordings are cut into consecutive clips.
        min_clip_s: shorter recordings and remainders are rejected, seconds.
        max_clips_per_recording: a longer recording contributes no more than this many; the default is an
            hour of ten-second clips, and what lies beyond is listed among the rejects.
        variants: pairs of a genuine and a forged clip made from each stretch outside the test partition.
        shares: how much of the sound each partition has.
        group_pattern: regular expression searched in a recording's relative path; its first group names the
            speaker or session, which never crosses partitions. What it does not match is each on its own.
        protocol: which attack families play which part.
        commands: families that external commands forge; the protocol may name them.
        chain: noise and codecs that both clips of a pair go through; none by default.
        every_family: each partition is forged by the families of its part of the protocol or, if true, by
            all of them (but those apart) in turn, and each wide test mask by every one. Then any family can
            be left out later, without building again (`unseen`), and all are judged on the same masks.
        placement: where masks lie. 'uniform': every instant of a clip is equally likely to be forged.
            'activity': of eight turns of a mask, where onsets are strongest, for forged and genuine clips
            alike; nearer to what a forger does, but level then tells forged frames from others, whatever
            forged them, so frame scores must be read beside the trivial detectors'.
        scenes: None makes clips of the recordings as they are; otherwise scenes are mixed from them first, as
            long as a clip (`corpus.scenes={}` for the defaults).
        builtin: the generated recordings, used when no folder is given.
    """

    seed: int = Field(default=0, ge=0, lt=2**32)
    clip_s: float = Field(default=10.0, ge=1.0, le=10.0)
    min_clip_s: float = Field(default=MIN_DURATION_S, ge=MIN_DURATION_S)
    max_clips_per_recording: int = Field(default=360, ge=1)
    variants: int = Field(default=2, ge=1, le=50)
    shares: Shares = Shares()
    group_pattern: str | None = None
    protocol: Protocol = Field(default_factory=Protocol)
    commands: tuple[CommandConfig, ...] = ()
    chain: ChainConfig = OFF
    every_family: bool = False
    placement: Placement = "uniform"
    scenes: SceneConfig | None = None
    builtin: BuiltinConfig = BuiltinConfig()

    def attack(self, family: str) -> "Attack":
        """The family of that name, among ours, the plug-ins' and the commands'."""
        from fakesound.attacks.registry import get_attack

        return get_attack(family, self.commands)

    @model_validator(mode="after")
    def _families_are_sound(self) -> Self:
        from fakesound.attacks.registry import require_new

        require_new(self.commands)
        self.protocol.check(self.commands)
        return self

    @field_validator("group_pattern")
    @classmethod
    def _has_a_group(cls, pattern: str | None) -> str | None:
        if pattern is None:
            return None
        try:
            groups = re.compile(pattern).groups
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from None
        if groups < 1:
            raise ValueError("needs a (group) around the speaker or session")
        return pattern

    @model_validator(mode="after")
    def _clips_have_room(self) -> Self:
        if self.min_clip_s > self.clip_s:
            raise ValueError("min_clip_s exceeds clip_s")
        return self
