"""Judges the models side by side."""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def evaluate(
    *,
    store: str,
    config: str,
    run: str,
    features: dsl.Input[dsl.Dataset],
    detector: dsl.Input[dsl.Model],
    baseline: dsl.Input[dsl.Model],
    evaluation: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    report: dsl.Output[dsl.HTML],
) -> None:
    """Figures with floors and intervals for every view and attack family, and the report."""
    from fakesound.orchestration.process import run_step
    from fakesound.orchestration.stages import evaluate as stage

    figures = run_step(
        stage.evaluate,
        store=store,
        config=config,
        features=features.path,
        detector=detector.path,
        baseline=baseline.path,
        run=run,
        evaluation_out=evaluation.path,
        report_out=report.path,
    )
    for name, value in figures.items():
        metrics.log_metric(name, value)
