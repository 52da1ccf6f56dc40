"""The known attack families, by name."""

from fakesound.attacks.autoregressive import AUTOREGRESSIVE
from fakesound.attacks.base import Attack
from fakesound.attacks.codec import CODEC
from fakesound.attacks.copy_move import COPY_MOVE
from fakesound.attacks.granular import GRANULAR
from fakesound.attacks.griffin_lim import GRIFFIN_LIM
from fakesound.attacks.janssen import JANSSEN
from fakesound.attacks.lpc_vocoder import LPC_VOCODER
from fakesound.attacks.nmf import NMF
from fakesound.attacks.noise_vocoder import NOISE_VOCODER
from fakesound.attacks.phase_randomisation import PHASE_RANDOMISATION
from fakesound.attacks.spain import SPAIN
from fakesound.attacks.splice import SPLICE
from fakesound.attacks.time_pitch import TIME_PITCH
from fakesound.attacks.world import WORLD
from fakesound.core.errors import UserError

ATTACKS: dict[str, Attack] = {
    attack.family: attack
    for attack in (
        GRIFFIN_LIM,
        PHASE_RANDOMISATION,
        AUTOREGRESSIVE,
        JANSSEN,
        SPAIN,
        GRANULAR,
        NOISE_VOCODER,
        LPC_VOCODER,
        WORLD,
        NMF,
        TIME_PITCH,
        CODEC,
        COPY_MOVE,
        SPLICE,
    )
}

MECHANISMS: dict[str, tuple[str, ...]] = {
    mechanism: tuple(family for family, attack in ATTACKS.items() if attack.mechanism == mechanism)
    for mechanism in dict.fromkeys(attack.mechanism for attack in ATTACKS.values())
}
"""Mechanism to its families: cousins that leave training together."""


def get_attack(name: str) -> Attack:
    """The family called `name`.

    Raises:
        UserError: there is none; the message lists those there are.
    """
    if name not in ATTACKS:
        raise UserError(f"no attack family {name!r}; known: {', '.join(ATTACKS)}")
    return ATTACKS[name]
