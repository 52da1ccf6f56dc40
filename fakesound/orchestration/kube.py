"""How this process reaches a Kubernetes cluster."""

import os
from pathlib import Path

from fakesound.core.errors import UserError

IN_CLUSTER_VARIABLE = "KUBERNETES_SERVICE_HOST"
KUBECONFIG_VARIABLE = "KUBECONFIG"
NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


def check_cluster(asked_by: str) -> None:
    """Refuse what needs a cluster where none is configured; nothing heavy is imported and nothing contacted.

    Args:
        asked_by: what needs it, for the message.

    Raises:
        UserError: this is no pod, and there is no kubeconfig.
    """
    if os.environ.get(IN_CLUSTER_VARIABLE):
        return
    named = os.environ.get(KUBECONFIG_VARIABLE) or str(Path.home() / ".kube" / "config")
    if not any(Path(path).is_file() for path in named.split(os.pathsep)):
        raise UserError(
            f"{asked_by} needs a cluster, and there is none: run it as a pipeline step, or name a kubeconfig "
            f"in {KUBECONFIG_VARIABLE}"
        )


def connect() -> str:
    """Configure the `kubernetes` package for the cluster of this pod, or of the kubeconfig.

    Returns:
        The pod's namespace, or the one of the kubeconfig's context; empty where it names none.

    Raises:
        UserError: the configuration cannot be used.
    """
    from kubernetes import config
    from kubernetes.config import ConfigException

    try:
        if os.environ.get(IN_CLUSTER_VARIABLE):
            config.load_incluster_config()
            return NAMESPACE_FILE.read_text().strip()
        config.load_kube_config()
        _, active = config.list_kube_config_contexts()
        return active["context"].get("namespace", "")
    except (ConfigException, OSError) as error:
        raise UserError(f"the cluster's configuration cannot be used: {error}") from None
