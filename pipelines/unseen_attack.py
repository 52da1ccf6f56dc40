"""The whole road as one DAG, the same on a laptop and on a cluster: only parameters differ.

open_run -> corpus -> plan_features -> features_shard (one task a shard) -> finish_features
  -> sweep -> train detector ----+
  `-------> train baseline ------+-> evaluate -> register            (on exit: close_run)
"""

# kfp's decorators turn functions into factories of tasks, which their types do not say.
# pyright: reportCallIssue=false, reportAttributeAccessIssue=false, reportArgumentType=false

from kfp import dsl

from components.close_run.component import close_run
from components.corpus.component import corpus
from components.evaluate.component import evaluate
from components.features_shard.component import features_shard
from components.finish_features.component import finish_features
from components.image import IMAGE
from components.open_run.component import open_run
from components.plan_features.component import plan_features
from components.register.component import register
from components.sweep.component import sweep
from components.train.component import train

NO_OVERRIDES = "[]"


@dsl.pipeline(name="unseen-attack")
def unseen_attack(  # noqa: PLR0917
    store: str,
    config: str = "builtin",
    recordings: str = "",
    launcher: str = "local",
    sweeper: str = "optuna",
    image: str = IMAGE,
) -> None:
    """Build a corpus, train detector and baseline, judge both on attacks absent from training, register.

    Args:
        store: URL of the one store.
        config: preset, or the run configuration as JSON.
        recordings: folder of recordings; empty for the built-in corpus.
        launcher: how training is launched.
        sweeper: who searches hyperparameters.
        image: of every step.
    """
    job_id = dsl.PIPELINE_JOB_ID_PLACEHOLDER
    closing = close_run(store=store, job_id=job_id).set_container_image(image)
    with dsl.ExitHandler(closing, name="run"):
        run = open_run(
            store=store,
            config=config,
            recordings=recordings,
            launcher=launcher,
            sweeper=sweeper,
            job_id=job_id,
        ).set_container_image(image)
        clips = (
            corpus(store=store, config=config, recordings=recordings).after(run).set_container_image(image)
        )
        plan = plan_features(store=store, config=config, corpus=clips.outputs["corpus"]).set_container_image(
            image
        )
        with dsl.ParallelFor(plan.output, name="shards") as shard:
            written = features_shard(
                store=store, config=config, shard=shard, corpus=clips.outputs["corpus"]
            ).set_container_image(image)
        features = (
            finish_features(store=store, config=config, corpus=clips.outputs["corpus"])
            .after(written)
            .set_container_image(image)
            .outputs["features"]
        )
        search = sweep(
            store=store, config=config, run=run.output, sweeper=sweeper, image=image, features=features
        ).set_container_image(image)
        trained = {
            role: train(
                store=store,
                config=config,
                overrides=overrides,
                role=role,
                run=run.output,
                launcher=launcher,
                image=image,
                features=features,
            )
            .set_container_image(image)
            .set_display_name(f"train {role}")
            .outputs["training"]
            for role, overrides in (("detector", search.output), ("baseline", NO_OVERRIDES))
        }
        judged = evaluate(
            store=store, config=config, run=run.output, features=features, **trained
        ).set_container_image(image)
        register(
            store=store,
            run=run.output,
            features=features,
            training=trained["detector"],
            evaluation=judged.outputs["evaluation"],
        ).set_container_image(image)
