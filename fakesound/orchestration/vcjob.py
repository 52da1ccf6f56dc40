"""A training's Volcano job: torchx's own, with every pod edited to what a shared cluster asks of it.

torchx's own overlays belong to a role and are applied to each of its pods; one that names a container adds an
image-less container to every pod but that container's. So the pods of the dry run are edited instead.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fakesound.orchestration.launch_config import ClusterConfig
from fakesound.orchestration.training_app import TrainingJob, training_app

if TYPE_CHECKING:
    from torchx.schedulers.kubernetes_scheduler import KubernetesJob
    from torchx.schedulers.kubernetes_scheduler import Opts as KubernetesOptions
    from torchx.specs import AppDryRunInfo

USER_ID = 10001  # that images/ make
SHM_VOLUME = "dshm"  # torchx's
INSTANCE_LABEL = "app.kubernetes.io/instance"


@dataclass(frozen=True, kw_only=True)
class Owner:
    """The pod that waits for a job: when it is deleted, so is the job."""

    name: str
    uid: str


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What a job takes over from the process that launches it.

    Attributes:
        owner: None where the launching process is in no pod of the job's namespace.
        env: variables that pods need beside the job's own.
        store_folder: where the store's volume claim is mounted; None for a remote store.
    """

    owner: Owner | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    store_folder: str | None = None


def volcano_request(
    job: TrainingJob, around: Surroundings
) -> "AppDryRunInfo[KubernetesJob, KubernetesOptions]":
    """What torchx's kubernetes scheduler is to schedule: a pure function, no cluster needed."""
    from torchx.schedulers.kubernetes_scheduler import Opts, create_scheduler, sanitize_for_serialization

    cluster = job.launch.cluster
    options = Opts(
        namespace=cluster.namespace,
        queue=cluster.queue,
        validate_spec=False,
        reserved_millicpu=0,  # what is asked for is meant
        reserved_memmb=0,
    )
    request = create_scheduler("fakesound").submit_dryrun(training_app(job, python="python"), options)
    resource = request.request.resource
    for task in resource["spec"]["tasks"]:
        _edit(task["template"], job.name, cluster, around)
    # One name for every attempt: Kubernetes itself then keeps two from running at a time.
    resource["metadata"] = {"name": job.name, "labels": {"app.kubernetes.io/part-of": "fakesound"}}
    if around.owner is not None:
        owner = {"apiVersion": "v1", "kind": "Pod", "name": around.owner.name, "uid": around.owner.uid}
        resource["metadata"]["ownerReferences"] = [owner]
    resource["spec"]["minAvailable"] = job.launch.fewest_nodes
    resource["spec"]["ttlSecondsAfterFinished"] = cluster.ttl_s
    request.request.resource = sanitize_for_serialization(resource)
    return request


def _edit(pod: Any, name: str, cluster: ClusterConfig, around: Surroundings) -> None:
    from kubernetes.client import models as k8s

    spec, (container,) = pod.spec, pod.spec.containers
    pod.metadata.labels[INSTANCE_LABEL] = name
    spec.automount_service_account_token = False
    spec.active_deadline_seconds = cluster.deadline_s
    spec.node_selector = dict(cluster.node_selector)
    spec.tolerations = [
        k8s.V1Toleration(key=t.key, operator=t.operator, value=t.value or None, effect=t.effect)
        for t in cluster.tolerations
    ]
    spec.security_context = k8s.V1PodSecurityContext(
        run_as_non_root=True,
        run_as_user=USER_ID,
        run_as_group=USER_ID,
        fs_group=USER_ID,
        seccomp_profile=k8s.V1SeccompProfile(type="RuntimeDefault"),
    )
    container.security_context = k8s.V1SecurityContext(
        allow_privilege_escalation=False,
        read_only_root_filesystem=True,
        capabilities=k8s.V1Capabilities(drop=["ALL"]),
    )
    # The home folder is read-only, and compilers of kernels keep their caches there.
    variables = {"HOME": "/tmp", **around.env}
    container.env += [k8s.V1EnvVar(name=key, value=value) for key, value in sorted(variables.items())]
    if cluster.secret is not None:
        source = k8s.V1SecretEnvSource(name=cluster.secret)
        container.env_from = [k8s.V1EnvFromSource(secret_ref=source)]
    _edit_volumes(pod, cluster, around.store_folder)


def _edit_volumes(pod: Any, cluster: ClusterConfig, store_folder: str | None) -> None:
    from kubernetes.client import models as k8s

    spec, (container,) = pod.spec, pod.spec.containers
    (shm,) = (volume for volume in spec.volumes if volume.name == SHM_VOLUME)
    shm.empty_dir.size_limit = f"{cluster.shm_mb}M"
    spec.volumes.append(k8s.V1Volume(name="tmp", empty_dir=k8s.V1EmptyDirVolumeSource()))
    container.volume_mounts.append(k8s.V1VolumeMount(name="tmp", mount_path="/tmp"))
    if cluster.store_claim is not None:
        claim = k8s.V1PersistentVolumeClaimVolumeSource(claim_name=cluster.store_claim)
        spec.volumes.append(k8s.V1Volume(name="store", persistent_volume_claim=claim))
        container.volume_mounts.append(k8s.V1VolumeMount(name="store", mount_path=store_folder))
