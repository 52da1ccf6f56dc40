"""Registered versions of the detector, and which of them is the champion.

The first version becomes champion. A later one takes the alias only if it scores higher than the champion on
the same validation clips; where the two cannot be compared, the champion stays. The reason is written either
way.
"""

import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fakesound.core.errors import UserError
from fakesound.core.progress import say
from fakesound.models.bundle import DESCRIPTION_NAME, Bundle, load_bundle
from fakesound.orchestration.tracking import CHAMPION, MODEL_NAME, Tracking

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

BUNDLE_ARTIFACT = "bundle"
MODEL_CODE = Path(__file__).with_name("pyfunc_model.py")

BUNDLE_TAG = "fakesound.bundle_digest"
FRONT_END_TAG = "fakesound.front_end_digest"
VALIDATION_TAG = "fakesound.validation_digest"
SCORE_TAG = "fakesound.validation_score"
DECISION_TAG = "fakesound.decision"
REASON_TAG = "fakesound.reason"

PROMOTED, KEPT = "promoted", "kept"


@dataclass(frozen=True)
class Candidate:
    """A detector to register.

    Attributes:
        folder: its bundle, thresholds among the facts.
        digest: of the bundle: the same digest is the same detector.
        front_end_digest: of the features that it reads.
        validation_digest: of the validation clips that it was scored on.
        score: on them; higher is better.
        rescore: scores another bundle on the same clips.
    """

    folder: Path
    digest: str
    front_end_digest: str
    validation_digest: str
    score: float
    rescore: Callable[[Bundle], float]


@dataclass(frozen=True)
class Decision:
    """What became of a candidate."""

    version: str
    is_champion: bool
    reason: str


def register(tracking: Tracking, run: str, candidate: Candidate) -> Decision:
    """Make a model version of the candidate, unless there is one, and decide about the alias.

    Args:
        tracking: server and registry.
        run: tracking run that the version belongs to.
        candidate: what to register.
    """
    client = tracking.client
    champion = find_champion(tracking)
    version = _find_version(tracking, candidate.digest)
    if version is not None and DECISION_TAG in version.tags:
        is_champion = champion is not None and champion.version == version.version
        reason = f"the same detector is version {version.version} already"
        return Decision(str(version.version), is_champion, reason)
    if version is None:  # else a run was killed between registering and deciding: decide now
        version = _create_version(tracking, run, candidate)
    promote, reason = _compare(tracking, candidate, champion)
    if promote:
        client.set_registered_model_alias(MODEL_NAME, CHAMPION, version.version)
    client.set_model_version_tag(MODEL_NAME, version.version, REASON_TAG, reason)
    client.update_model_version(MODEL_NAME, version.version, description=reason)
    client.set_model_version_tag(MODEL_NAME, version.version, DECISION_TAG, PROMOTED if promote else KEPT)
    return Decision(str(version.version), promote, reason)


def find_champion(tracking: Tracking) -> "ModelVersion | None":
    """The version that carries the alias; None when there is none."""
    from mlflow.exceptions import MlflowException

    try:
        return tracking.client.get_model_version_by_alias(MODEL_NAME, CHAMPION)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def fetch_bundle(tracking: Tracking, model_uri: str) -> Bundle:
    """Download and load the bundle of a model: `models:/fakesound@champion`, `models:/fakesound/3`.

    Raises:
        UserError: there is no such model, or it is not one of ours.
    """
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    tracking.make_default()
    with tempfile.TemporaryDirectory() as folder:
        try:
            local = download_artifacts(artifact_uri=model_uri, dst_path=folder)
        except (MlflowException, OSError) as error:
            raise UserError(f"no model {model_uri} in {tracking.uri}: {error}") from None
        found = sorted(Path(local).rglob(DESCRIPTION_NAME))
        if not found:
            raise UserError(f"{model_uri} is not a detector that fakesound registered")
        return load_bundle(found[0].parent)


def _find_version(tracking: Tracking, digest: str) -> "ModelVersion | None":
    wanted = f"name = '{MODEL_NAME}' and tags.`{BUNDLE_TAG}` = '{digest}'"
    found = tracking.client.search_model_versions(wanted)
    return found[0] if found else None


def _create_version(tracking: Tracking, run: str, candidate: Candidate) -> "ModelVersion":
    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.types import ParamSchema, ParamSpec

    client = tracking.client
    tracking.make_default()
    with mlflow.start_run(run_id=run), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # mlflow's advice on type hints: audio is not a table
        logged = mlflow.pyfunc.log_model(
            name="detector",
            python_model=str(MODEL_CODE),
            artifacts={BUNDLE_ARTIFACT: str(candidate.folder)},
            signature=ModelSignature(params=ParamSchema([ParamSpec("sample_rate_hz", "long", 0)])),
            pip_requirements=["fakesound"],  # named: guessing would load the model in another process
        )
    if not client.search_registered_models(f"name = '{MODEL_NAME}'"):
        client.create_registered_model(MODEL_NAME, description="Finds forged stretches of audio")
    tags = {
        BUNDLE_TAG: candidate.digest,
        FRONT_END_TAG: candidate.front_end_digest,
        VALIDATION_TAG: candidate.validation_digest,
        SCORE_TAG: repr(candidate.score),
    }
    return client.create_model_version(
        MODEL_NAME, source=logged.model_uri, run_id=run, tags=tags, model_id=logged.model_id
    )


def _compare(tracking: Tracking, candidate: Candidate, champion: "ModelVersion | None") -> tuple[bool, str]:
    """Whether the alias moves, and why."""
    if champion is None:
        return True, f"no champion yet: validation score {candidate.score:.4f}"
    name = f"version {champion.version}"
    if champion.tags.get(FRONT_END_TAG) != candidate.front_end_digest:
        return False, f"{name} stays: it reads features of another front end, so the two cannot be compared"
    if champion.tags.get(VALIDATION_TAG) == candidate.validation_digest:
        score = float(champion.tags[SCORE_TAG])
    else:
        say(f"scoring {name} on this run's validation clips")
        score = candidate.rescore(fetch_bundle(tracking, f"models:/{MODEL_NAME}/{champion.version}"))
    is_better = candidate.score > score
    scores = f"validation score {candidate.score:.4f} against {score:.4f} of {name}, on the same clips"
    return is_better, f"{'better' if is_better else 'not better'}: {scores}"
