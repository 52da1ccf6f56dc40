"""From a corpus to sharded log-mel features."""

import os

from fakesound.core.store import Pointer, Store
from fakesound.features.extract import extract_features, finish_features, plan_shards, write_shard
from fakesound.orchestration.config import RunConfig
from fakesound.orchestration.tracking import Tracking


def plan(*, store: str, config: str, corpus: str) -> int:
    """How many shards there are to write."""
    return plan_shards(Pointer.read(corpus), RunConfig.load(config).features, Store(store))


def shard(*, store: str, config: str, corpus: str, index: int) -> None:
    """Write one shard, unless it is there."""
    write_shard(Pointer.read(corpus), RunConfig.load(config).features, Store(store), index)


def finish(*, store: str, config: str, corpus: str, run: str, features_out: str) -> None:
    """Declare the features whole and write the pointer to them.

    Args:
        store: URL.
        config: preset, file or JSON.
        corpus: pointer file.
        run: parent tracking run; empty for none.
        features_out: pointer file to write.

    Raises:
        IntegrityError: a shard is missing.
    """
    opened = Store(store)
    features = finish_features(Pointer.read(corpus), RunConfig.load(config).features, opened)
    features.write(features_out)
    if run:
        tags = {"fakesound.features": features.uri, "fakesound.features_digest": features.digest}
        Tracking(opened).set_tags(run, tags)


def extract(*, store: str, config: str, corpus: str, features_out: str) -> None:
    """All shards on this machine's cores, then the pointer: the command line's way."""
    run_config = RunConfig.load(config)
    pointer = extract_features(
        Pointer.read(corpus), run_config.features, Store(store), num_processes=os.cpu_count() or 1
    )
    pointer.write(features_out)
