"""What an adapter is, and what it says of a clip."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from fakesound.core.regions import Region
from fakesound.core.schemas import GENUINE
from fakesound.corpora.adapters.text import NOT_TEXT, refuse, shown
from fakesound.corpora.masks import Regime


@dataclass(frozen=True)
class Roots:
    """Where a dataset lies on this machine.

    Attributes:
        data: the dataset itself: a folder, or one's own table.
        genuine: recordings that the dataset builds on and does not distribute; None where there are none.
    """

    data: Path
    genuine: Path | None = None


@dataclass(frozen=True, kw_only=True)
class ExternalClip:
    """One clip as its dataset describes it.

    Attributes:
        clip_id: unique in the dataset.
        where: file and line that describe it, for messages.
        paths: where its audio may lie; the first that exists is taken.
        label: 1 = forged, 0 = genuine.
        family: attack family; 'genuine' if and only if the label is 0.
        mechanism: names the family that this one is a twin of under another id; None: it has no twin.
        regions: forged stretches as the dataset gives them; None: forged from end to end, if forged.
        source_ids: recordings heard in it, as far as they are known.
        group: speaker or session, which must not cross partitions; None: the first source.
        partition: of the dataset's own split; None: it has none.
        length_regime: 'wide' where region lengths go beyond those of training.
    """

    clip_id: str
    where: str
    paths: tuple[Path, ...]
    label: int
    family: str
    source_ids: tuple[str, ...]
    mechanism: str | None = None
    regions: tuple[Region, ...] | None = None
    group: str | None = None
    partition: str | None = None
    length_regime: Regime = "train"

    def __post_init__(self) -> None:
        if (self.label == 1) != (self.family != GENUINE):
            refuse(self.where, f"label {self.label} (1 = forged) with family {shown(self.family)}")
        if not (self.clip_id and self.family and self.source_ids and all(self.source_ids)):
            refuse(self.where, "an empty name of a clip, a family or a source")
        names = (self.clip_id, self.family, *self.source_ids, self.group or "", *map(str, self.paths))
        if NOT_TEXT.search("".join(names)):
            refuse(self.where, "a name with control characters or outside UTF-8; rename it")


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """How one dataset is read.

    Attributes:
        name: what `corpus import --format` calls it.
        needs: what has to be on disk, in one line.
        read: gives every clip that the dataset's files list, whether its audio is there or not. Raises
            UserError, with file and line, at what it does not understand.
        trained_families: families that the dataset's authors train on, which stay seen when only the test
            part of the dataset is imported.
    """

    name: str
    needs: str
    read: Callable[[Roots], Iterable[ExternalClip]]
    trained_families: frozenset[str] = frozenset()
