"""A distributed training as a torchx application: a pure description, for any scheduler."""

import shlex
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fakesound.orchestration.launch_config import LaunchConfig

if TYPE_CHECKING:
    from torchx.specs import AppDef

WORKER_MODULE = "fakesound.orchestration.worker"
ROLE = "trainer"
MAX_RESTARTS = 3  # by torchrun, of processes that died while their node lived on
# A node's image takes minutes to come; until then the others knock at the first one's port.
STORE_TIMEOUT_S = 300
OF_SEVERAL_NODES = {
    "POD_IP": "[FIELD_PATH]status.podIP",
    # Shared, a node that joins later waits for an address that the first wrote for an earlier round alone.
    "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
}
FIRST_PORT, NUM_PORTS = 20_000, 10_000  # below those that Linux hands out by itself


@dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """One training to launch.

    Attributes:
        name: of the job, a DNS label. Two jobs of one name never run at the same time.
        arguments: of the worker module.
        launch: nodes, processes, and what they are given.
        image: container image; the local scheduler ignores it.
    """

    name: str
    arguments: tuple[str, ...]
    launch: LaunchConfig
    image: str


def training_app(job: TrainingJob, *, python: str) -> "AppDef":
    """The torchx application of a job: torchrun on every node, ranks meeting at a port of the job's own.

    Args:
        job: what to launch.
        python: interpreter that has fakesound installed, where the job runs.
    """
    from torchx.specs import AppDef, Resource, Role

    launch = job.launch
    threads = str(launch.threads_per_process)
    command = [python, *_torchrun(job), "-m", WORKER_MODULE, *job.arguments]
    entrypoint, args = _entrypoint(job, command)
    role = Role(
        name=ROLE,
        image=job.image,
        entrypoint=entrypoint,
        args=args,
        env={
            "OMP_NUM_THREADS": threads,
            "NUMBA_NUM_THREADS": threads,
            "PYTHONUNBUFFERED": "1",
            "LOGLEVEL": "ERROR",
            **launch.env,
            **({} if launch.nodes == 1 else OF_SEVERAL_NODES),
        },
        resource=Resource(
            cpu=launch.cluster.cpus or launch.processes * launch.threads_per_process,
            gpu=launch.processes * launch.gpus_per_process,
            memMB=launch.cluster.memory_mb,
        ),
        num_replicas=launch.nodes,
        min_replicas=launch.fewest_nodes,
    )
    return AppDef(name=job.name, roles=[role])


def rendezvous_port(name: str) -> int:
    """Where the nodes of the job of that name meet: its own, also where pods share their host's network."""
    return FIRST_PORT + zlib.crc32(name.encode()) % NUM_PORTS


def _torchrun(job: TrainingJob) -> list[str]:
    launch = job.launch
    nodes = (
        f"{launch.fewest_nodes}:{launch.nodes}" if launch.fewest_nodes < launch.nodes else f"{launch.nodes}"
    )
    return [
        "-m",
        "torch.distributed.run",
        f"--nnodes={nodes}",
        f"--nproc-per-node={launch.processes}",
        f"--rdzv-id={job.name}",
        "--rdzv-backend=c10d",
        f"--rdzv-conf=read_timeout={STORE_TIMEOUT_S}",
        f"--max-restarts={MAX_RESTARTS}",
        "--role=rank",
        "--tee=3",
    ]


def _entrypoint(job: TrainingJob, command: list[str]) -> tuple[str, list[str]]:
    """The command of a node, told where to meet; through a shell where only the node's environment knows."""
    from torchx.specs import macros

    python, module, torchrun, *rest = command
    if job.launch.nodes == 1:  # port 0: each job finds a free one
        where = ["--rdzv-endpoint=127.0.0.1:0", "--local-addr=127.0.0.1"]
        return python, [module, torchrun, *where, *map(_escaped, rest)]
    # torchx puts the name of the variable that holds the first node's address in the macro's place.
    first_node = f"$${{{macros.rank0_env}:=localhost}}:{rendezvous_port(job.name)}"
    where_text = f"--rdzv-endpoint={first_node} --local-addr=$$POD_IP"
    before, after = shlex.join([python, module, torchrun]), _escaped(shlex.join(rest))
    # exec: signals to the container are torchrun's.
    return "sh", ["-c", f"exec {_escaped(before)} {where_text} {after}"]


def _escaped(argument: str) -> str:
    """Kept as it is when torchx fills in its macros."""
    return argument.replace("$", "$$")
