"""Plans follow from seeds alone."""

from collections import defaultdict

import numpy as np
import pytest
from recordings import made_up_recording

from fakesound.core.config import digest_of
from fakesound.core.schemas import GENUINE, PARTITIONS
from fakesound.corpora.build import CORPUS_VERSION
from fakesound.corpora.config import CorpusConfig
from fakesound.corpora.plan import StretchPlan, plan_clips

GOLDEN_OF_VERSION = {4: "f403984cdc833d0d"}


def plan(config: CorpusConfig, num_recordings: int) -> list[StretchPlan]:
    recordings = [made_up_recording(f"r{index}", 1.0 + index % 3) for index in range(num_recordings)]
    names = {one.source_id: one.source_id for one in recordings}
    partition_of = {name: PARTITIONS[index % 4] for index, name in enumerate(names)}
    return plan_clips(recordings, names, partition_of, config)


def test_a_changed_plan_is_another_version_of_corpora() -> None:
    planned = [
        [clip.clip_id, clip.family, clip.mask_id, clip.turn, clip.seed, clip.donor and clip.donor.source_id]
        for stretch in plan(CorpusConfig(variants=2, every_family=True), 24)
        for clip in stretch.clips
    ]
    assert digest_of(planned) == GOLDEN_OF_VERSION[CORPUS_VERSION]


def test_wide_test_masks_are_forged_by_every_family() -> None:
    """Whatever is left out later, hard and zeroshot then share sources and masks."""
    config = CorpusConfig(every_family=True)
    protocol = config.protocol
    everyone = {*protocol.seen, *protocol.validation_unseen, *protocol.test_unseen}
    for stretch in plan(config, 40):
        if stretch.partition == "test":
            wide = [clip.family for clip in stretch.clips if clip.regime == "wide"]
            assert sorted(wide) == sorted([GENUINE, "splice", *everyone])


def test_clips_of_one_mask_share_regime_and_turn() -> None:
    masks = defaultdict(set)
    for stretch in plan(CorpusConfig(every_family=True), 40):
        for clip in stretch.clips:
            masks[clip.mask_id].add((clip.regime, clip.turn))
    assert all(len(found) == 1 for found in masks.values())


@pytest.mark.parametrize("num_seen", range(1, 9))
def test_each_familys_masks_are_turned_evenly(num_seen: int) -> None:
    """For any number of families, those that are Fibonacci numbers included: gaps stay small."""
    families = (
        "griffin_lim",
        "phase_randomisation",
        "autoregressive",
        "janssen",
        "spain",
        "nmf",
        "codec",
        "time_pitch",
    )
    config = CorpusConfig.parse({"variants": 1, "protocol": {"seen": families[:num_seen]}})
    turns = defaultdict(list)
    for stretch in plan(config, 600):
        for clip in stretch.clips:
            if clip.family != GENUINE and clip.regime == "train":
                turns[stretch.partition, clip.family].append(clip.turn)
    assert len(turns) == 3 * num_seen
    for found in turns.values():
        gaps = np.diff(np.sort(found), append=min(found) + 1)
        assert gaps.max() < 2 / len(found)
