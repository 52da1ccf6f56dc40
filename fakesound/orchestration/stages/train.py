"""Training one model on all ranks of the configuration."""

import json
import tempfile
from pathlib import Path

import torch

from fakesound.core.errors import UserError
from fakesound.core.progress import say
from fakesound.core.store import Place, Pointer, Store
from fakesound.features.config import FeatureConfig
from fakesound.models.budget import GIGA, count_flops, match_budget, unallocated
from fakesound.models.config import ModelConfig
from fakesound.models.detector import count_parameters
from fakesound.orchestration.config import RunConfig
from fakesound.orchestration.detectors import copy_detector
from fakesound.orchestration.epochs import SCORE, backfill, read_records
from fakesound.orchestration.launch import LOCAL, Launcher, get_launcher
from fakesound.orchestration.launch_config import LaunchConfig
from fakesound.orchestration.tracking import Tracking
from fakesound.orchestration.training_app import TrainingJob
from fakesound.orchestration.worker import REQUEST_NAME
from fakesound.training.request import TrainingRequest, training_place

DETECTOR, BASELINE = "detector", "baseline"
NO_OVERRIDES = "[]"

# What `resume` needs, on the run of a training.
TRAINING_TAG = "fakesound.training"
LAUNCHER_TAG = "fakesound.launcher"
IMAGE_TAG = "fakesound.image"
LAUNCH_TAG = "fakesound.launch"


def train(
    *,
    store: str,
    config: str,
    overrides: str,
    role: str,
    features: str,
    run: str,
    launcher: str,
    image: str,
    training_out: str | None,
) -> None:
    """Train the detector or the baseline (or find it trained), and write the pointer to it.

    Args:
        store: URL.
        config: preset, file or JSON.
        overrides: what the sweep found: a JSON list of `key.key=value`.
        role: detector or baseline.
        features: pointer file.
        run: parent tracking run; empty for none.
        launcher: see `launch.get_launcher`.
        image: container image of the ranks; the local launcher takes none.
        training_out: pointer file to write; None writes none.

    Raises:
        UserError: something given cannot be used.
        TrainingFailedError: a rank failed.
    """
    opened = Store(store)
    run_config = RunConfig.load(config).with_overrides(_parse_overrides(overrides))
    engine = get_launcher(launcher, run_config.launch, opened, image)
    request = training_request(run_config, role, Pointer.read(features), opened, launcher)
    launch = _launch(run_config, launcher)
    place = training_place(opened, request)
    tracking = Tracking(opened)
    child = tracking.start(
        f"train-{role}",
        "training",
        parent=run,
        params=request.model_dump(mode="json"),
        tags={
            TRAINING_TAG: place.uri,
            "fakesound.role": role,
            LAUNCHER_TAG: launcher,
            IMAGE_TAG: image,
            LAUNCH_TAG: launch.model_dump_json(),
        },
    )
    pointer = _train_in_run(tracking, child, request, engine, _job(place, child, image, launch))
    if training_out:
        pointer.write(training_out)


def resume(*, store: str, run: str, training_out: str | None) -> None:
    """Take up a training that was stopped, lost or failed, by the run that tracks it, as it was launched.

    Args:
        store: URL.
        run: id of the tracking run of a training; its epochs go on in it.
        training_out: pointer file to write; None writes none.

    Raises:
        UserError: there is no such run, or it is not one of a training of this store.
        TrainingFailedError: a rank failed.
    """
    opened = Store(store)
    tracking = Tracking(opened)
    tags = tracking.tags_of(run)
    if TRAINING_TAG not in tags:
        raise UserError(f"run {run} is not a training; MLflow lists those as train-detector, train-baseline")
    place = Place(tags[TRAINING_TAG])
    request = TrainingRequest.read(place.local_path(REQUEST_NAME))
    launch = LaunchConfig.model_validate_json(tags[LAUNCH_TAG])
    image = tags[IMAGE_TAG]
    engine = get_launcher(tags[LAUNCHER_TAG], launch, opened, image)
    tracking.reopen(run)
    pointer = _train_in_run(tracking, run, request, engine, _job(place, run, image, launch))
    if training_out:
        pointer.write(training_out)


def _train_in_run(
    tracking: Tracking, run: str, request: TrainingRequest, engine: Launcher, job: TrainingJob
) -> Pointer:
    place = training_place(Store(request.store_url), request)
    try:
        if place.is_complete():
            say(f"{request.model.kind} is already trained: {place.uri}")
        else:
            say(f"training {request.model.kind} in {request.world_size} process(es)")
            with place.writing(REQUEST_NAME) as path:
                request.write(path)
            engine.run(job)
        pointer = place.pointer()
        _track(tracking, run, pointer.open())
    except BaseException:
        tracking.finish(run, succeeded=False)
        raise
    tracking.finish(run, succeeded=True)
    return pointer


def training_request(
    config: RunConfig, role: str, features: Pointer, store: Store, launcher: str = LOCAL
) -> TrainingRequest:
    """What to train in this role, by that launcher.

    Raises:
        UserError: there is no such role, or its model cannot be made as large as the budget says.
    """
    if role not in (DETECTOR, BASELINE):
        raise UserError(f"no role {role!r}; known: {DETECTOR}, {BASELINE}")
    is_detector = role == DETECTOR
    return TrainingRequest(
        features=features,
        store_url=store.url,
        model=_sized_model(config, is_detector, features),
        training=config.training if is_detector else config.baseline_training,
        unseen=config.unseen,
        world_size=_launch(config, launcher).world_size,
    )


def _sized_model(config: RunConfig, is_detector: bool, features: Pointer) -> ModelConfig:
    """The role's model, as wide as the budget says."""
    model, budget = config.detector if is_detector else config.baseline, config.budget
    if budget is None or (budget.match and is_detector):
        return model
    num_mels = FeatureConfig.parse(features.open().metadata["features_config"]).num_mels
    parameters, gflops = budget.parameters, budget.gflops
    if budget.match == "parameters":
        parameters = count_parameters(unallocated(config.detector, num_mels))
    elif budget.match == "gflops":
        gflops = count_flops(config.detector, num_mels) / GIGA
    sized = match_budget(model, num_mels=num_mels, parameters=parameters, gflops=gflops)
    say(f"{sized.kind}, sized by the budget: {count_parameters(unallocated(sized, num_mels)):,} parameters")
    return sized


def _launch(config: RunConfig, launcher: str) -> LaunchConfig:
    """One process a GPU of this machine at most: two on one GPU only get in each other's way."""
    launch = config.launch
    if launcher != LOCAL or not torch.cuda.is_available():
        return launch
    return launch.model_copy(update={"processes": min(launch.processes, torch.cuda.device_count())})


def _parse_overrides(text: str) -> list[str]:
    try:
        values = json.loads(text)
    except ValueError:
        values = None
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise UserError(f"overrides must be a JSON list of key.key=value, not {text!r:.80}")
    return values


def _job(place: Place, child: str, image: str, launch: LaunchConfig) -> TrainingJob:
    return TrainingJob(name=f"train-{place.key}", arguments=(place.uri, child), launch=launch, image=image)


def _track(tracking: Tracking, child: str, place: Place) -> None:
    """Epochs that no rank reported in this run (a resumed or reused training), and the checkpoint."""
    records = read_records(place)
    backfill(tracking, child, records)
    tracking.log_metrics(child, {"best_score": max(record[SCORE] for record in records)})
    with tempfile.TemporaryDirectory() as folder:
        copy_detector(place, Path(folder))
        tracking.log_folder(child, Path(folder), "detector")
