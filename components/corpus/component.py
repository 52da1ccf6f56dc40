"""Builds the corpus."""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def corpus(*, store: str, config: str, recordings: str, corpus: dsl.Output[dsl.Dataset]) -> None:
    """From recordings to genuine and forged clips with a manifest."""
    from fakesound.orchestration.process import run_step
    from fakesound.orchestration.stages import corpus as stage

    run_step(stage.build, store=store, config=config, recordings=recordings, corpus_out=corpus.path)
