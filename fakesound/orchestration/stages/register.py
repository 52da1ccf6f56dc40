"""The trained detector as a model version, with its thresholds."""

import hashlib
import tempfile
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa

from fakesound.core.config import digest_of
from fakesound.core.progress import say
from fakesound.core.store import Place, Pointer, Store
from fakesound.corpora.protocol import held_out
from fakesound.corpora.views import views_of
from fakesound.evaluation.predict import predict_views, read_predictions
from fakesound.evaluation.views import VALIDATION_SPLITS, read_view, splits_of
from fakesound.features.reader import FeatureSet
from fakesound.metrics.clip import roc_auc
from fakesound.models.bundle import DESCRIPTION_NAME, Bundle, save_bundle
from fakesound.orchestration.detectors import read_detector
from fakesound.orchestration.registry import Candidate, Decision
from fakesound.orchestration.registry import register as register_candidate
from fakesound.orchestration.stages.evaluate import POINTS, device
from fakesound.orchestration.tracking import MODEL_NAME, Tracking


def register(*, store: str, features: str, training: str, evaluation: str, run: str) -> str:
    """Register the detector and let it meet the champion.

    Args:
        store: URL.
        features: pointer file: the clips on which versions are compared.
        training: pointer file of the detector's training.
        evaluation: pointer file: thresholds and validation predictions.
        run: tracking run that the version belongs to; empty opens one.

    Returns:
        What was decided, in a sentence.
    """
    pointer, trained = Pointer.read(features), Pointer.read(training)
    judged, feature_set = Pointer.read(evaluation).open(), FeatureSet.open(pointer)
    unseen = judged.metadata["unseen"]
    roles = held_out(feature_set.metadata["protocol"], unseen, feature_set.table)
    views = [view for view in VALIDATION_SPLITS if view in views_of(roles)]
    tracking = Tracking(Store(store))
    name = judged.metadata["detector"]
    bundle = read_detector(trained.open())
    owner = run or tracking.start("register", "registration")
    with tempfile.TemporaryDirectory() as folder:
        _save_with_thresholds(Path(folder), bundle, judged.read_json(POINTS)[name], trained)
        candidate = Candidate(
            folder=Path(folder),
            digest=hashlib.sha256((Path(folder) / DESCRIPTION_NAME).read_bytes()).hexdigest(),
            front_end_digest=feature_set.config.digest(),
            validation_digest=digest_of([pointer.digest, unseen]),
            score=validation_score(_validation_predictions(judged, name)),
            rescore=lambda other: validation_score(
                predict_views(other.detector, feature_set, roles, views=views, device=device())
            ),
        )
        decision = register_candidate(tracking, owner, candidate)
    text = _sentence(decision)
    tracking.set_tags(owner, {"fakesound.registered": text})
    if not run:
        tracking.finish(owner, succeeded=True)
    say(text)
    return text


def validation_score(predictions: pa.Table) -> float:
    """Mean of clip AUC and frame AUC over the validation views: a champion judges clips and frames, whichever
    of them its training chose the best epoch by.
    """
    parts = []
    for split in splits_of(predictions):
        view = read_view(predictions, split)
        parts += [roc_auc(view.labels, view.scores), roc_auc(view.frames.labels, view.frames.scores)]
    return sum(parts) / len(parts)


def _validation_predictions(judged: Place, name: str) -> pa.Table:
    table = read_predictions(judged.checked_path(f"predictions-{name}.parquet"))
    return table.filter(pa.array(split in VALIDATION_SPLITS for split in table["split"].to_pylist()))


def _save_with_thresholds(
    folder: Path, bundle: Bundle, operating_point: dict[str, float], training: Pointer
) -> None:
    save_bundle(
        folder,
        detector=bundle.detector,
        config=bundle.config,
        num_mels=bundle.num_mels,
        front_end=bundle.front_end,
        facts=bundle.facts | {"operating_point": operating_point, "training": asdict(training)},
    )


def _sentence(decision: Decision) -> str:
    role = "is champion" if decision.is_champion else "is not champion"
    return f"{MODEL_NAME} version {decision.version} {role}: {decision.reason}"
