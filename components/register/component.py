"""Registers the detector."""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def register(
    *,
    store: str,
    run: str,
    features: dsl.Input[dsl.Dataset],
    training: dsl.Input[dsl.Model],
    evaluation: dsl.Input[dsl.Artifact],
) -> str:
    """Make a model version, let it meet the champion, and return what was decided and why."""
    from fakesound.orchestration.process import run_step
    from fakesound.orchestration.stages import register as stage

    return run_step(
        stage.register,
        store=store,
        features=features.path,
        training=training.path,
        evaluation=evaluation.path,
        run=run,
    )
