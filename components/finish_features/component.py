"""Declares the features whole."""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def finish_features(
    *, store: str, config: str, corpus: dsl.Input[dsl.Dataset], features: dsl.Output[dsl.Dataset]
) -> None:
    """Verify that every shard is there and point to them."""
    from fakesound.orchestration.process import run_step
    from fakesound.orchestration.stages import features as stage

    run_step(stage.finish, store=store, config=config, corpus=corpus.path, features_out=features.path)
