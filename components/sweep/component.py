"""Searches hyperparameters."""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def sweep(
    *, store: str, config: str, run: str, sweeper: str, image: str, features: dsl.Input[dsl.Dataset]
) -> str:
    """The best point's overrides of the run configuration, as a JSON list."""
    from fakesound.orchestration.process import run_step
    from fakesound.orchestration.stages import sweep as stage

    return run_step(
        stage.sweep,
        store=store,
        config=config,
        features=features.path,
        run=run,
        sweeper=sweeper,
        image=image,
    )
