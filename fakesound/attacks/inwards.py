"""Long gaps, filled block by block from their borders inwards, for the methods that reach only so far."""

from typing import Protocol

import numpy as np

from fakesound.attacks.base import AttackContext, Samples

_MAX_GAIN = 100.0  # of one block


class Fill(Protocol):
    """Fills a gap between `left` and `right`, (length,); where `right` is empty, `left` is continued."""

    def __call__(self, left: Samples, right: Samples, length: int) -> Samples:
        """The samples missing, (length,)."""
        ...


def fill_inwards(
    left: Samples, right: Samples, length: int, *, block: int, reach: int, fill: Fill
) -> Samples:
    """The gap (length,) between `left` and `right`, one of which may be empty.

    While more than two blocks are missing, one block is continued from the left, one (in reversed time) from
    the right, each from `reach` samples, what was filled before included; what then remains is interpolated.
    Where one side is empty, the other is continued all the way. Continuing costs level: each block is faded
    to that of the side it came from.
    """
    ahead, behind = left, right[::-1]
    missing = length
    while missing > (2 * block if len(left) and len(right) else block):
        if len(left):
            ahead = _continued(ahead, len(left), block, reach, fill)
            missing -= block
        if len(right):
            behind = _continued(behind, len(right), block, reach, fill)
            missing -= block
    if not len(left):
        behind = _continued(behind, len(right), missing, reach, fill)
    elif not len(right):
        ahead = _continued(ahead, len(left), missing, reach, fill)
    elif missing:
        ahead = np.concatenate([ahead, fill(ahead[-reach:], behind[-reach:][::-1], missing)])
    return np.concatenate([ahead[len(left) :], behind[len(right) :][::-1]])


def _continued(known: Samples, num_true: int, length: int, reach: int, fill: Fill) -> Samples:
    """`known`, of which the first `num_true` samples were recorded, with `length` samples more."""
    if not length:
        return known
    more = fill(known[-reach:], np.zeros(0), length)
    wanted, found = np.mean(known[:num_true][-reach:] ** 2), np.mean(more[length // 2 :] ** 2)
    gain = np.clip(np.sqrt(wanted / found) if found > 0 else 1.0, 1 / _MAX_GAIN, _MAX_GAIN)
    return np.concatenate([known, more * np.geomspace(1.0, gain, length)])


def known_sides(context: AttackContext, max_samples: int, min_samples: int) -> tuple[Samples, Samples]:
    """What is known left and right of the region; a side shorter than `min_samples` counts as empty.

    Nothing known on either side (the region is nearly the whole recording): the region mirrored at its
    borders stands in, as though the recording went on that way. Not as it is, as in
    `AttackContext.surroundings`: these sides are continued sample by sample, and must meet the gap's ends
    with the sound that is there.
    """
    left, right = context.left(max_samples), context.right(max_samples)
    nothing = np.zeros(0)
    left, right = (side if len(side) >= min_samples else nothing for side in (left, right))
    if len(left) or len(right):
        return left, right
    mirrored = context.original[::-1]
    return mirrored[-max_samples:], mirrored[:max_samples]
