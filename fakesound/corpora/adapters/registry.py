"""Every adapter by its name: those that the modules of this package bring as `ADAPTER`."""

import pkgutil
from importlib import import_module

from fakesound.core.errors import UserError
from fakesound.corpora import adapters
from fakesound.corpora.adapters.base import Adapter


def find_adapters() -> dict[str, Adapter]:
    """The adapters by name, in the order of their names."""
    names = {f"{adapters.__name__}.{module.name}" for module in pkgutil.iter_modules(adapters.__path__)}
    brought = (getattr(import_module(name), "ADAPTER", None) for name in names - {__name__})
    found = {adapter.name: adapter for adapter in brought if isinstance(adapter, Adapter)}
    return dict(sorted(found.items()))


ADAPTERS = find_adapters()


def get_adapter(name: str) -> Adapter:
    """The adapter of a format.

    Raises:
        UserError: there is none; the message says what each format needs.
    """
    if name not in ADAPTERS:
        known = "\n".join(f"  {adapter.name}: {adapter.needs}" for adapter in ADAPTERS.values())
        raise UserError(f"no format {name!r}; there are\n{known}")
    return ADAPTERS[name]
