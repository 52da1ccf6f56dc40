"""Closes the tracking run; the exit handler."""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def close_run(*, store: str, job_id: str, status: dsl.PipelineTaskFinalStatus) -> None:
    """Write the pipeline's outcome into its parent run."""
    from fakesound.orchestration.process import run_step
    from fakesound.orchestration.stages import run as stage

    run_step(stage.close_run, store=store, job_id=job_id, state=status.state)
