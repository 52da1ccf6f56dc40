"""Writes one shard of features."""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def features_shard(*, store: str, config: str, shard: str, corpus: dsl.Input[dsl.Dataset]) -> None:
    """Log-mel features and labels of one part of the corpus."""
    from fakesound.orchestration.process import run_step
    from fakesound.orchestration.stages import features as stage

    run_step(stage.shard, store=store, config=config, corpus=corpus.path, index=int(shard))
