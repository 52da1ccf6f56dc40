"""Plans the feature shards."""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def plan_features(*, store: str, config: str, corpus: dsl.Input[dsl.Dataset]) -> list[str]:
    """Numbers of the shards to write; as text, since numbers in lists come back as floats."""
    from fakesound.orchestration.process import run_step
    from fakesound.orchestration.stages import features as stage

    return [str(k) for k in range(run_step(stage.plan, store=store, config=config, corpus=corpus.path))]
