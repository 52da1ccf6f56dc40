"""Where a training's processes run and what each is given. Only their number bears on the result."""

import re
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from fakesound.core.config import Config

DNS_LABEL = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"
COMMUNICATION_VARIABLE = re.compile(r"(NCCL|GLOO|TORCH_NCCL)_[A-Z0-9_]+")
HOUR_S = 3600

Name = Annotated[str, Field(pattern=DNS_LABEL)]


class Toleration(Config):
    """A taint that pods put up with, in Kubernetes' own terms.

    Attributes:
        key: of the taint.
        operator: whether the taint's value must be equal, or anything.
        value: of the taint, for Equal.
        effect: of the taint; None is every effect.
    """

    key: str = Field(min_length=1)
    operator: Literal["Equal", "Exists"] = "Equal"
    value: str = ""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None

    @model_validator(mode="after")
    def _check_value(self) -> Self:
        if self.operator == "Exists" and self.value:
            raise ValueError("a toleration with operator Exists takes no value")
        return self


class ClusterConfig(Config):
    """What the launcher `volcano` asks of a Kubernetes cluster. Amounts are for one node (one pod).

    Attributes:
        namespace: of the job.
        queue: of Volcano.
        cpus: None takes a CPU for each thread of each process.
        memory_mb: of 10^6 bytes.
        shm_mb: size of /dev/shm, by which the processes of a node exchange gradients; counts as memory.
        node_selector: labels of the nodes to run on.
        tolerations: taints of these nodes.
        store_claim: volume claim that holds the store, for a store that is a folder; it is mounted there.
        secret: whose entries become environment variables (keys of an object store, of MLflow).
        deadline_s: a pod that has run for so long is stopped.
        ttl_s: how long a finished job can be looked at.
    """

    namespace: Name = "fakesound"
    queue: Name = "default"
    cpus: int | None = Field(default=None, gt=0)
    memory_mb: int = Field(default=8192, ge=512)
    shm_mb: int = Field(default=1024, ge=64)
    node_selector: dict[str, str] = Field(default_factory=dict)
    tolerations: tuple[Toleration, ...] = ()
    store_claim: Name | None = None
    secret: Name | None = None
    deadline_s: int = Field(default=7 * 24 * HOUR_S, ge=60)
    ttl_s: int = Field(default=24 * HOUR_S, ge=0)


class LaunchConfig(Config):
    """How training is spread over nodes and processes.

    Attributes:
        nodes: machines (pods).
        min_nodes: with fewer than `nodes`, but as many as this, training goes on; None never does.
        processes: ranks on each node. All ranks share the `training.batch_clips` clips of a step.
        threads_per_process: of OpenMP.
        gpus_per_process: asked of the cluster. On one machine, the GPUs that there are.
        max_resubmits: how often a job is submitted again after it was lost (preempted, killed, a node gone).
        env: settings of NCCL and gloo (interfaces, topology); names starting NCCL_, GLOO_ or TORCH_NCCL_.
        cluster: for the launcher `volcano`.
    """

    nodes: int = Field(default=1, gt=0, le=1024)
    min_nodes: int | None = Field(default=None, gt=0)
    processes: int = Field(default=2, gt=0)
    threads_per_process: int = Field(default=1, gt=0)
    gpus_per_process: int = Field(default=0, ge=0, le=1)
    max_resubmits: int = Field(default=3, ge=0)
    env: dict[str, str] = Field(default_factory=dict)
    cluster: ClusterConfig = ClusterConfig()

    @field_validator("env")
    @classmethod
    def _check_names(cls, env: dict[str, str]) -> dict[str, str]:
        for name in env:
            if not COMMUNICATION_VARIABLE.fullmatch(name):
                raise ValueError(f"{name}: only settings of communication (NCCL_…, GLOO_…, TORCH_NCCL_…)")
        return env

    @model_validator(mode="after")
    def _check_nodes(self) -> Self:
        if self.min_nodes is not None and self.min_nodes > self.nodes:
            raise ValueError(f"min_nodes {self.min_nodes} is more than nodes {self.nodes}")
        return self

    @property
    def fewest_nodes(self) -> int:
        """On how many nodes training goes on."""
        return self.nodes if self.min_nodes is None else self.min_nodes

    @property
    def world_size(self) -> int:
        """Processes over all nodes."""
        return self.nodes * self.processes
