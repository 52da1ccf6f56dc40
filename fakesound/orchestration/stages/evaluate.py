"""Both models on the same clips: predictions, thresholds from validation, figures, report."""

import platform
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

import pyarrow as pa
import torch

from fakesound.core.config import digest_of
from fakesound.core.errors import UserError
from fakesound.core.files import writing
from fakesound.core.progress import say
from fakesound.core.store import Place, Pointer, Store
from fakesound.corpora.masks import TRAIN_SHARE
from fakesound.corpora.protocol import Roles, held_out
from fakesound.evaluation.evaluate import evaluate as evaluate_predictions
from fakesound.evaluation.operating_point import choose_operating_point
from fakesound.evaluation.predict import predict_views, read_predictions, write_predictions
from fakesound.evaluation.report import render_report
from fakesound.evaluation.result import EvaluationResult
from fakesound.evaluation.table import HEADLINE, render_table
from fakesound.evaluation.trivial import trivial_detectors
from fakesound.features.reader import FeatureSet
from fakesound.models.bundle import Bundle
from fakesound.models.config import TokenNetworkConfig
from fakesound.models.conv_network import ConvNetwork
from fakesound.orchestration.config import RunConfig
from fakesound.orchestration.detectors import read_detector
from fakesound.orchestration.tracking import Tracking, git_commit

EVALUATION_VERSION = 2  # raise it when code changes what an evaluation holds
RESULT, TABLE, REPORT, POINTS = "metrics.json", "metrics.csv", "report.html", "operating_points.json"


def evaluate(
    *,
    store: str,
    config: str,
    features: str,
    detector: str,
    baseline: str,
    run: str,
    evaluation_out: str,
    report_out: str,
) -> dict[str, float]:
    """Judge both models (or find them judged), write the pointer and the report, return the headline figures.

    Args:
        store: URL.
        config: preset, file or JSON.
        features: pointer file.
        detector: pointer file of its training.
        baseline: pointer file of its training.
        run: parent tracking run; empty for none.
        evaluation_out: pointer file to write.
        report_out: HTML file to write.

    Raises:
        UserError: the features lack a view, or hold too few clips for a threshold.
    """
    opened, run_config = Store(store), RunConfig.load(config)
    inputs = {"features": Pointer.read(features)}
    inputs |= {"detector": Pointer.read(detector), "baseline": Pointer.read(baseline)}
    digests = {name: pointer.digest for name, pointer in inputs.items()}
    key = digest_of([EVALUATION_VERSION, digests, run_config.evaluation.digest(), run_config.unseen])
    place = opened.place("evaluations", key)
    if place.is_complete():
        say("the same models are already evaluated on the same clips")
    else:
        _evaluate(place, run_config, inputs)
    place.pointer().write(evaluation_out)
    with writing(report_out) as path:
        path.write_bytes(place.read_bytes(REPORT))
    result = read_result(place)
    _track(Tracking(opened), run, place, result)
    return _headline(result)


def read_result(place: Place) -> EvaluationResult:
    """The figures of a finished evaluation."""
    return EvaluationResult.model_validate_json(place.checked_path(RESULT).read_bytes())


def table_of(evaluation: str) -> str:
    """The result table of an evaluation, from its pointer file."""
    return render_table(read_result(Pointer.read(evaluation).open()))


def device() -> str:
    """Where models are run."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def _evaluate(place: Place, config: RunConfig, inputs: Mapping[str, Pointer]) -> None:
    features = FeatureSet.open(inputs["features"], expected=config.features)
    corpus = Pointer(**features.metadata["corpus"])
    roles = held_out(features.metadata["protocol"], config.unseen, features.table)
    bundles = {role: _read_detector(inputs[role], config) for role in ("detector", "baseline")}
    names = _names(bundles)
    predictions = {
        names[role]: _predictions(
            place, names[role], bundle, features, roles=roles, batch_clips=config.evaluation.batch_clips
        )
        for role, bundle in bundles.items()
    }
    points = {name: choose_operating_point(table) for name, table in predictions.items()}
    result = evaluate_predictions(
        predictions,
        points,
        config.evaluation,
        step_frames=_step_frames(bundles["detector"]),
        trained_shares=None if "views" in roles else TRAIN_SHARE,  # an imported dataset's are its own
        trivial=trivial_detectors(corpus.open(), roles),
        facts=_facts(config, inputs, corpus),
    )
    _write(place, result, predictions, features)
    place.complete(
        {
            "models": list(points),
            "detector": names["detector"],
            "inputs": _as_dicts(inputs),
            "unseen": list(config.unseen),
        }
    )


def _read_detector(training: Pointer, config: RunConfig) -> Bundle:
    """The trained detector, unless what counts as unseen here is not what its training left out."""
    bundle = read_detector(training.open())
    left_out = bundle.facts["unseen"]
    if left_out != list(config.unseen):
        raise UserError(
            f"{training.uri} was trained with unseen={left_out}, and is to be judged with "
            f"unseen={list(config.unseen)}: give both commands the same --unseen"
        )
    return bundle


def _names(bundles: Mapping[str, Bundle]) -> dict[str, str]:
    detector, baseline = (bundles[role].config.kind for role in ("detector", "baseline"))
    return {"detector": detector, "baseline": baseline if baseline != detector else f"{baseline}-baseline"}


def _predictions(
    place: Place, name: str, bundle: Bundle, features: FeatureSet, *, roles: Roles, batch_clips: int
) -> pa.Table:
    """Score every view, unless an interrupted evaluation already did."""
    file = f"predictions-{name}.parquet"
    if not place.exists(file):
        say(f"scoring {name}")
        with place.writing(file) as path:
            table = predict_views(bundle.detector, features, roles, device=device(), batch_clips=batch_clips)
            write_predictions(path, table)
    return read_predictions(place.local_path(file))


def _step_frames(bundle: Bundle) -> int:
    """From one decision of the frame head to the next."""
    network, config = bundle.detector.network, bundle.config
    if isinstance(config, TokenNetworkConfig):
        return config.step_frames
    assert isinstance(network, ConvNetwork)
    return network.time_stride


def _facts(config: RunConfig, inputs: Mapping[str, Pointer], corpus: Pointer) -> dict[str, Any]:
    packages = ("fakesound", "torch", "torchaudio", "numpy", "pyarrow")
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": git_commit(),
        "machine": f"{platform.machine()}, {platform.system()}, {_processor()}",
        "versions": {name: metadata.version(name) for name in packages},
        "inputs": _as_dicts({**inputs, "corpus": corpus}),
        "corpus_counts": corpus.open().metadata.get("counts"),
        "config": config.model_dump(mode="json"),
    }


def _processor() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} threads"


def _as_dicts(pointers: Mapping[str, Pointer]) -> dict[str, dict[str, str]]:
    return {name: asdict(pointer) for name, pointer in pointers.items()}


def _write(
    place: Place, result: EvaluationResult, predictions: Mapping[str, pa.Table], features: FeatureSet
) -> None:
    def features_of(clip_id: str) -> Any:
        row = features.rows(clip_ids=[clip_id])["row"][0].as_py()
        return features.load([row])[0]

    place.write_bytes(RESULT, result.to_json().encode())
    place.write_bytes(TABLE, result.to_csv().encode())
    place.write_json(
        POINTS, {name: model.operating_point.model_dump() for name, model in result.models.items()}
    )
    place.write_bytes(REPORT, render_report(result, predictions, features_of).encode())


def _headline(result: EvaluationResult) -> dict[str, float]:
    """`model.view.metric` -> value, as flat as orchestrators like it."""
    return {
        f"{name}.{split}.{metric}": group.metrics[metric].value or 0.0
        for name, model in result.models.items()
        for split, group in model.splits.items()
        for metric in HEADLINE
        if metric in group.metrics and group.metrics[metric].value is not None
    }


def _track(tracking: Tracking, run: str, place: Place, result: EvaluationResult) -> None:
    child = tracking.start("evaluation", "evaluation", parent=run, tags={"fakesound.evaluation": place.uri})
    for name in (RESULT, TABLE, REPORT, POINTS):
        tracking.log_file(child, place.local_path(name))
    tracking.finish(child, succeeded=True)
    inputs: Any = result.facts["inputs"]
    tags = {f"fakesound.{name}_digest": pointer["digest"] for name, pointer in inputs.items()}
    for target in filter(None, (child, run)):
        tracking.log_metrics(target, _headline(result) | {"corpus": result.facts["corpus_counts"]})
        tracking.set_tags(target, tags)
