"""The whole Volcano job of three trainings, and what each of its pods must have."""

from pathlib import Path

import pytest
import yaml

from fakesound.orchestration.launch_config import LaunchConfig
from fakesound.orchestration.training_app import TrainingJob
from fakesound.orchestration.vcjob import Owner, Surroundings, volcano_request

GOLDEN = Path(__file__).with_name("vcjobs")
GPU_POOL = {
    "node_selector": {"cloud.example/accelerator": "h100"},
    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
}
LAUNCHES = {
    "cpu_1x1": {"processes": 1},
    "gpu_2x8": {
        "nodes": 2,
        "processes": 8,
        "threads_per_process": 4,
        "gpus_per_process": 1,
        "env": {"NCCL_SOCKET_IFNAME": "eth0", "NCCL_TOPO_FILE": "/tmp/topology.xml"},
        "cluster": GPU_POOL
        | {"memory_mb": 500_000, "shm_mb": 64_000, "queue": "training", "secret": "fakesound-store"},
    },
    "elastic_cpu_1_to_2": {
        "nodes": 2,
        "min_nodes": 1,
        "cluster": {"store_claim": "fakesound-store", "deadline_s": 3600, "ttl_s": 60, "cpus": 3},
    },
}
AROUND = Surroundings(
    owner=Owner(name="step-of-a-pipeline", uid="8a1c7b0e"),
    env={"MLFLOW_TRACKING_URI": "http://mlflow:5000"},
    store_folder="/data/store",
)


def vcjob(launch, around=AROUND):
    job = TrainingJob(
        name="train-0123456789abcdef",
        arguments=("s3://bucket/training/0123456789abcdef", "run-id"),
        launch=LaunchConfig.parse(launch),
        image="registry.example/fakesound@sha256:0123",
    )
    return volcano_request(job, around).request.resource


@pytest.mark.parametrize("name", LAUNCHES)
def test_the_job_is_the_golden_one(name):
    assert vcjob(LAUNCHES[name]) == yaml.safe_load((GOLDEN / f"{name}.yaml").read_text())


def test_there_is_no_golden_job_without_a_test():
    assert sorted(path.stem for path in GOLDEN.glob("*.yaml")) == sorted(LAUNCHES)


@pytest.mark.parametrize("name", LAUNCHES)
def test_the_job_is_a_pure_function_of_what_it_is_made_from(name):
    assert vcjob(LAUNCHES[name]) == vcjob(LAUNCHES[name])


@pytest.mark.parametrize("nodes", [1, 2, 5])
def test_every_pod_has_everything(nodes):
    launch = LAUNCHES["gpu_2x8"] | {"nodes": nodes}
    launch["cluster"] = launch["cluster"] | {
        "store_claim": "fakesound-store",
        "deadline_s": 7200,
        "ttl_s": 61,
    }
    resource = vcjob(launch)
    assert resource["spec"]["ttlSecondsAfterFinished"] == 61
    assert resource["spec"]["minAvailable"] == nodes
    (owner,) = resource["metadata"]["ownerReferences"]
    assert owner == {"apiVersion": "v1", "kind": "Pod", "name": "step-of-a-pipeline", "uid": "8a1c7b0e"}
    tasks = resource["spec"]["tasks"]
    assert [task["name"] for task in tasks] == [f"trainer-{node}" for node in range(nodes)]
    for task in tasks:
        check_pod(task["template"]["spec"], task["name"])


def check_pod(spec, name):
    (container,) = spec["containers"]
    assert container["name"] == name
    assert container["image"] == "registry.example/fakesound@sha256:0123"
    # https://kubernetes.io/docs/concepts/security/pod-security-standards: restricted
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert all(set(volume) <= {"name", "emptyDir", "persistentVolumeClaim"} for volume in spec["volumes"])
    assert not {"hostNetwork", "hostPID", "hostIPC", "serviceAccountName"} & set(spec)
    assert spec["automountServiceAccountToken"] is False
    assert spec["activeDeadlineSeconds"] == 7200
    assert spec["restartPolicy"] == "Never"
    assert spec["nodeSelector"] == GPU_POOL["node_selector"]
    assert spec["tolerations"] == GPU_POOL["tolerations"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    volumes = {volume.pop("name"): volume for volume in spec["volumes"]}
    assert mounts == {"dshm": "/dev/shm", "tmp": "/tmp", "store": "/data/store"}
    assert volumes == {
        "dshm": {"emptyDir": {"medium": "Memory", "sizeLimit": "64000M"}},
        "tmp": {"emptyDir": {}},
        "store": {"persistentVolumeClaim": {"claimName": "fakesound-store"}},
    }
    amounts = {"cpu": "32000m", "memory": "500000M", "nvidia.com/gpu": "8"}
    assert container["resources"] == {"limits": amounts, "requests": amounts}
    assert container["envFrom"] == [{"secretRef": {"name": "fakesound-store"}}]
    env = {variable["name"]: variable.get("value") for variable in container["env"]}
    expected = {"MLFLOW_TRACKING_URI": "http://mlflow:5000", "HOME": "/tmp", "OMP_NUM_THREADS": "4"}
    assert expected.items() <= env.items()
    assert env["NCCL_SOCKET_IFNAME"] == "eth0"


def test_a_job_that_nobody_in_its_namespace_waits_for_has_no_owner():
    assert "ownerReferences" not in vcjob({}, Surroundings())["metadata"]
