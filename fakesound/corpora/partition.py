"""Which partition each component of sources goes to."""

import math
from collections.abc import Mapping

from fakesound.core.errors import UserError
from fakesound.core.schemas import PARTITIONS
from fakesound.corpora.config import Shares
from fakesound.corpora.seeds import seed_for

# A splice in a test clip comes from another test source, so the test partition needs two.
LEAST_COMPONENTS = {"train": 1, "validation": 1, "validation_unseen": 1, "test": 2}


def partition_components(amounts: Mapping[str, float], shares: Shares, seed: int) -> dict[str, str]:
    """Assign components to partitions, big ones first, each to the emptiest partition that it fits into.

    Emptiest is relative to the share, so that a few big components (speakers) spread over all partitions.

    Args:
        amounts: seconds of sound by component.
        shares: the share of all seconds that each partition is to have.
        seed: orders components of like size (within a factor of two).

    Returns:
        the partition of each component.

    Raises:
        UserError: there are fewer components than the partitions need.
    """
    needed = sum(LEAST_COMPONENTS.values())
    if len(amounts) < needed:
        raise UserError(
            f"{len(amounts)} independent sources are not enough: at least {needed} are needed (one each for "
            "train, validation and validation_unseen, two for test); near-duplicates and recordings of one "
            "group count as one source"
        )
    total = sum(amounts.values())
    wanted = {partition: shares.of(partition) * total for partition in PARTITIONS}
    return deal_components(amounts, wanted, LEAST_COMPONENTS, seed)


def deal_components(
    amounts: Mapping[str, float], wanted: Mapping[str, float], least: Mapping[str, int], seed: int
) -> dict[str, str]:
    """Deal components to any partitions, big ones first, each to the emptiest that it fits into.

    Args:
        amounts: seconds of sound by component.
        wanted: seconds of sound that each partition is to have.
        least: how many components each partition needs; together no more than there are.
        seed: orders components of like size (within a factor of two).
    """
    order = sorted(
        amounts, key=lambda name: (-math.floor(math.log2(amounts[name])), seed_for(seed, "order", name))
    )
    lacking = dict(wanted)
    still_needed = dict(least)
    assigned: dict[str, str] = {}
    for position, component in enumerate(order):
        must = [partition for partition in wanted if still_needed[partition] > 0]
        left = len(order) - position
        open_to = must if left <= sum(still_needed.values()) else list(wanted)
        amount = amounts[component]
        fitting = [partition for partition in open_to if lacking[partition] >= amount]
        if fitting:
            chosen = max(fitting, key=lambda partition: lacking[partition] / wanted[partition])
        else:
            chosen = max(open_to, key=lambda partition: lacking[partition])
        assigned[component] = chosen
        lacking[chosen] -= amount
        still_needed[chosen] = max(0, still_needed[chosen] - 1)
    return assigned
