"""Opens the tracking run; the first step."""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def open_run(*, store: str, config: str, recordings: str, launcher: str, sweeper: str, job_id: str) -> str:
    """Check the run's parameters, open its parent run and return the run's id."""
    from fakesound.orchestration.process import run_step
    from fakesound.orchestration.stages import run as stage

    return run_step(
        stage.open_run,
        store=store,
        config=config,
        recordings=recordings,
        launcher=launcher,
        sweeper=sweeper,
        job_id=job_id,
    )
