"""From a corpus to sharded log-mel features."""

import os

from fakesound.core.store import Pointer, Store
from fakesound.features.extract import extract_features, finish_features, plan_shards, write_shard
from fakesound.orchestration.config import RunConfig


def plan(*, store: str, config: str, corpus: str) -> int:
    """How many shards there are to write."""
    return plan_shards(Pointer.read(corpus), RunConfig.load(config).features, Store(store))


def shard(*, store: str, config: str, corpus: str, index: int) -> None:
    """Write one shard, unless it is there."""
    write_shard(Pointer.read(corpus), RunConfig.load(config).features, Store(store), index)


def finish(*, store: str, config: str, corpus: str, features_out: str) -> None:
    """Declare the features whole and write the pointer to them.

    Raises:
        IntegrityError: a shard is missing.
    """
    features = finish_features(Pointer.read(corpus), RunConfig.load(config).features, Store(store))
    features.write(features_out)


def extract(*, store: str, config: str, corpus: str, features_out: str) -> None:
    """All shards on this machine's cores, then the pointer: the command line's way."""
    run_config = RunConfig.load(config)
    pointer = extract_features(
        Pointer.read(corpus), run_config.features, Store(store), num_processes=os.cpu_count() or 1
    )
    pointer.write(features_out)
