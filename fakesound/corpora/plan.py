"""Which clips are made of which stretch of sound: decided before any sound is touched, from seeds alone."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fakesound.attacks.splice import SPLICE
from fakesound.core.config import digest_of
from fakesound.core.errors import UserError
from fakesound.core.schemas import GENUINE, PARTITIONS
from fakesound.corpora.config import CorpusConfig
from fakesound.corpora.ingest import Recording
from fakesound.corpora.masks import GOLDEN_RATIO, Regime
from fakesound.corpora.seeds import rng_for, seed_for
from fakesound.corpora.sound import Sound


@dataclass(frozen=True)
class ClipPlan:
    """One clip to be made.

    Attributes:
        clip_id: names it.
        family: of the attack, or 'genuine'.
        mask_id: of the mask; with the corpus seed it draws the mask.
        regime: of the mask.
        turn: of the mask's circle, in [0, 1).
        seed: draws the attack or the genuine splices.
        donor: for the families that need one.
    """

    clip_id: str
    family: str
    mask_id: str
    regime: Regime
    turn: float
    seed: int
    donor: Sound | None


@dataclass(frozen=True)
class StretchPlan:
    """All clips made of one stretch, and what they have in common."""

    sound: Sound
    bandwidth_hz: float
    group: str
    component: str
    partition: str
    clips: tuple[ClipPlan, ...]


@dataclass(frozen=True)
class _Placed:
    """A stretch with its place in the corpus."""

    name: str
    sound: Sound
    recording: Recording
    component: str


def plan_clips(
    recordings: Sequence[Recording],
    component_of: Mapping[str, str],
    partition_of: Mapping[str, str],
    config: CorpusConfig,
) -> list[StretchPlan]:
    """Plan every clip.

    Args:
        recordings: usable ones.
        component_of: component by source id.
        partition_of: partition by component.
        config: seeds, variants, families.

    Raises:
        UserError: a family needs a donor from another source, and its partition has but one.
    """
    by_partition: dict[str, list[_Placed]] = defaultdict(list)
    for recording in recordings:
        component = component_of[recording.source_id]
        for index, stretch in enumerate(recording.stretches):
            name = f"{digest_of(recording.source_id)[:10]}-{index:03d}"
            placed = _Placed(name, Sound.of(recording, stretch), recording, component)
            by_partition[partition_of[component]].append(placed)
    plans = []
    for partition in PARTITIONS:
        placed = sorted(by_partition[partition], key=lambda p: seed_for(config.seed, "rotation", p.name))
        partners = _partners(sorted({p.component for p in placed}), config.seed)
        for index, one in enumerate(placed):
            clips = _clips(one, index, partition, _Donors(placed, partners, config.seed), config)
            plans.append(
                StretchPlan(
                    sound=one.sound,
                    bandwidth_hz=one.recording.bandwidth_hz,
                    group=one.recording.group,
                    component=one.component,
                    partition=partition,
                    clips=clips,
                )
            )
    return plans


@dataclass(frozen=True)
class _Donors:
    """Where splices come from: the partner component in the same partition."""

    placed: Sequence[_Placed]
    partners: Mapping[str, str]
    seed: int

    def draw(self, bed: _Placed, family: str) -> Sound:
        partner = self.partners.get(bed.component)
        if partner is None:
            raise UserError(f"{family} needs sound of another source, and one partition has but one source")
        candidates = sorted((p for p in self.placed if p.component == partner), key=lambda p: p.name)
        return candidates[rng_for(self.seed, "donor", bed.name).integers(len(candidates))].sound


def _partners(names: Sequence[str], seed: int) -> dict[str, str]:
    """Components in pairs (one trio if odd), so that splicing joins as few independent sources as can be."""
    order = sorted(names, key=lambda name: seed_for(seed, "partner", name))
    partners = {}
    for first, second in zip(order[::2], order[1::2], strict=False):
        partners[first], partners[second] = second, first
    if len(order) % 2 and len(order) > 1:
        partners[order[-1]] = order[-2]
    return partners


@dataclass(frozen=True)
class _MaskPlan:
    """A mask to be drawn, and which families forge under it: by role, which names the clip."""

    name: str
    regime: Regime
    turn: float
    cast: Mapping[str, str]


def _clips(
    one: _Placed, index: int, partition: str, donors: _Donors, config: CorpusConfig
) -> tuple[ClipPlan, ...]:
    def clip(mask: _MaskPlan, role: str, family: str) -> ClipPlan:
        clip_id = f"{one.name}-{mask.name}-{role}"
        is_splice = family != GENUINE and config.attack(family).mechanism == SPLICE.mechanism
        return ClipPlan(
            clip_id=clip_id,
            family=family,
            mask_id=f"{one.name}-{mask.name}",
            regime=mask.regime,
            turn=mask.turn,
            seed=seed_for(config.seed, "clip", clip_id),
            donor=donors.draw(one, family) if is_splice else None,
        )

    return tuple(
        clip(mask, role, family)
        for mask in _masks(index, partition, config)
        for role, family in {"genuine": GENUINE, **mask.cast}.items()
    )


def _masks(index: int, partition: str, config: CorpusConfig) -> list[_MaskPlan]:
    """The masks of stretch number `index` of a partition."""
    protocol = config.protocol
    everyone = (*protocol.seen, *protocol.validation_unseen, *protocol.test_unseen)

    def mask_of_one(name: str, regime: Regime, role: str, families: Sequence[str], number: int) -> _MaskPlan:
        """The partition's mask `number`, under which one family forges.

        Each family's masks turn by a sequence of their own: of one for all a family would get every n-th,
        and such multiples of the golden ratio may lie close together. Position would then say something.
        """
        families = everyone if config.every_family else families
        family = _in_turn(families, number)
        turn = _turn(number // len(families), config.seed, partition, regime, family)
        return _MaskPlan(name, regime, turn, {role: family})

    if partition == "test":
        wide = {"hard": _in_turn(protocol.seen, index + 1), "zeroshot": _in_turn(protocol.test_unseen, index)}
        if config.every_family:
            wide = {family: family for family in everyone}
        wide["splice"] = _in_turn(protocol.apart, index)
        return [
            mask_of_one("train", "train", "easy", protocol.seen, index),
            _MaskPlan("wide", "wide", _turn(index, config.seed, partition, "wide"), wide),
        ]
    is_unseen = partition == "validation_unseen"
    regime: Regime = "wide" if is_unseen else "train"
    families = protocol.validation_unseen if is_unseen else protocol.seen
    return [
        mask_of_one(f"{regime}{variant}", regime, "forged", families, index * config.variants + variant)
        for variant in range(config.variants)
    ]


def _turn(number: int, seed: int, *sequence: str) -> float:
    return (rng_for(seed, "turn", *sequence).random() + number * GOLDEN_RATIO) % 1


def _in_turn(families: Sequence[str], index: int) -> str:
    return families[index % len(families)]
