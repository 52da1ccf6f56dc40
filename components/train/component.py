"""Trains one model."""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def train(
    *,
    store: str,
    config: str,
    overrides: str,
    role: str,
    run: str,
    launcher: str,
    image: str,
    features: dsl.Input[dsl.Dataset],
    training: dsl.Output[dsl.Model],
) -> None:
    """Train the detector or the baseline, on all ranks of the configuration."""
    from fakesound.orchestration.process import run_step
    from fakesound.orchestration.stages import train as stage

    run_step(
        stage.train,
        store=store,
        config=config,
        overrides=overrides,
        role=role,
        features=features.path,
        run=run,
        launcher=launcher,
        image=image,
        training_out=training.path,
    )
