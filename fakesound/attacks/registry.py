"""The known attack families, by name: ours, those of plug-ins, and those of external commands."""

from collections.abc import Iterable, Sequence
from functools import cache
from importlib.metadata import EntryPoint, entry_points

from fakesound.attacks.autoregressive import AUTOREGRESSIVE
from fakesound.attacks.base import Attack
from fakesound.attacks.codec import CODEC
from fakesound.attacks.command import CommandConfig, command_attack
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
from fakesound.core.schemas import GENUINE

ENTRY_POINT_GROUP = "fakesound.attacks"

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

_RESERVED = {*ATTACKS, GENUINE}


def get_attack(name: str, commands: Sequence[CommandConfig] = ()) -> Attack:
    """The family called `name`: ours, a plug-in's or a command's.

    Plug-ins are entry points of the group `fakesound.attacks`, named as the family, each an `Attack`.

    Args:
        name: of the family.
        commands: families that external commands forge.

    Raises:
        UserError: there is none (the message lists those there are), or a plug-in cannot be used.
    """
    plugins = _plugins()
    for config in commands:
        if config.family == name:
            return command_attack(config)
    if name in ATTACKS:
        return ATTACKS[name]
    if name not in plugins:
        known = [*ATTACKS, *plugins, *(config.family for config in commands)]
        raise UserError(f"no attack family {name!r}; known: {', '.join(known)}")
    return _loaded(plugins[name])


def known_attacks() -> dict[str, tuple[Attack, str]]:
    """Every family with whence it comes: 'built in' or the distribution.

    Raises:
        UserError: a plug-in cannot be used.
    """
    ours = {family: (attack, "built in") for family, attack in ATTACKS.items()}
    return ours | {name: (_loaded(entry), _distribution(entry)) for name, entry in _plugins().items()}


def plugin_distributions(families: Iterable[str]) -> dict[str, str]:
    """Name and version of the distribution of each family that a plug-in brings; the others are left out."""
    plugins = _plugins()
    return {family: _distribution(plugins[family]) for family in families if family in plugins}


def require_new(commands: Sequence[CommandConfig]) -> None:
    """Check that no command takes a name that is taken.

    Raises:
        UserError: one does.
    """
    taken = {*_RESERVED, *_plugins()}
    for config in commands:
        if config.family in taken:
            raise UserError(f"command {config.family!r}: there is a family of that name; give it another")
        taken.add(config.family)


@cache
def _plugins() -> dict[str, EntryPoint]:
    """Entry points by family; their code is loaded only when a family is asked for."""
    found: dict[str, EntryPoint] = {}
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        if entry.name in _RESERVED:
            raise UserError(f"plug-in {_distribution(entry)}: family {entry.name!r} is built in; rename it")
        if entry.name in found:
            both = f"{_distribution(found[entry.name])} and {_distribution(entry)}"
            raise UserError(f"plug-ins {both}: both bring a family {entry.name!r}; uninstall or rename one")
        found[entry.name] = entry
    return found


def _loaded(entry: EntryPoint) -> Attack:
    try:
        attack = entry.load()
    except Exception as error:  # another's code: whatever it raises, the user must know whose it is
        raise UserError(
            f"plug-in {_distribution(entry)}: {entry.value} cannot be loaded: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(attack, Attack) or attack.family != entry.name:
        raise UserError(
            f"plug-in {_distribution(entry)}: {entry.value} is no Attack of the family {entry.name!r}, "
            f"but {attack!r:.100}"
        )
    return attack


def _distribution(entry: EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else entry.value
