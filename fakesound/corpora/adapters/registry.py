"""Every adapter by its name."""

from fakesound.core.errors import UserError
from fakesound.corpora.adapters import (
    asvspoof5,
    asvspoof2019,
    fakesound,
    fakesound2,
    folder,
    had,
    in_the_wild,
    llamapartialspoof,
    mlaad,
    partialspoof,
    table,
    wavefake,
)
from fakesound.corpora.adapters.base import Adapter

_MODULES = (
    *(fakesound, fakesound2, partialspoof, asvspoof2019, asvspoof5, llamapartialspoof, had),
    *(in_the_wild, mlaad, wavefake, folder, table),
)
ADAPTERS: dict[str, Adapter] = {module.ADAPTER.name: module.ADAPTER for module in _MODULES}


def get_adapter(name: str) -> Adapter:
    """The adapter of a format.

    Raises:
        UserError: there is none; the message says what each format needs.
    """
    if name not in ADAPTERS:
        known = "\n".join(f"  {adapter.name}: {adapter.needs}" for adapter in ADAPTERS.values())
        raise UserError(f"no format {name!r}; there are\n{known}")
    return ADAPTERS[name]
