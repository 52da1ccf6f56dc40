"""Two hosts on this machine: network namespaces with addresses of their own, joined by a cable (veth)."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

ADDRESSES = ("192.0.2.1", "192.0.2.2")  # RFC 5737: for documentation, routed nowhere
INTERFACE = "cable"


def why_not() -> str:
    """Why there can be no two hosts here; empty where there can."""
    if os.geteuid() != 0:
        return "two hosts on one machine are network namespaces, which need root"
    if shutil.which("ip") is None:
        return "two hosts on one machine are network namespaces, which need the command ip (iproute2)"
    try:
        _ip("netns", "add", f"fakesound-{os.getpid()}-try")
        _ip("netns", "delete", f"fakesound-{os.getpid()}-try")
    except subprocess.CalledProcessError as error:
        return f"no network namespaces here: {error.stderr.strip()}"
    return ""


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


@dataclass
class Host:
    """One of the hosts.

    Attributes:
        name: of its network namespace.
        address: of its end of the cable.
        processes: groups started here.
    """

    name: str
    address: str
    processes: list[subprocess.Popen] = field(default_factory=list)

    def start(self, command: Sequence[str], log: Path, env: Mapping[str, str]) -> subprocess.Popen:
        """Start a command here, as a process group of its own; its output is added to `log`."""
        with log.open("ab") as stream:
            process = subprocess.Popen(
                ["ip", "netns", "exec", self.name, *command],
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=os.environ | env,
            )
        self.processes.append(process)
        return process

    def kill(self) -> None:
        """Everything that runs in the namespace at once, without a word, as when power goes."""
        found = subprocess.run(["ip", "netns", "pids", self.name], capture_output=True, text=True, check=True)
        for pid in found.stdout.split():
            try:
                os.kill(int(pid), signal.SIGKILL)
            except ProcessLookupError:
                continue
        for process in self.processes:
            process.wait(10)


@contextmanager
def two_hosts(kind: str = "hosts") -> Iterator[tuple[Host, Host]]:
    """The hosts, for the time of the block; whatever happens in it, nothing of them is left after it.

    `kind` tells these hosts from others that there are at the same time.
    """
    names = [f"fakesound-{os.getpid()}-{kind}-{number}" for number in range(2)]
    hosts = (Host(names[0], ADDRESSES[0]), Host(names[1], ADDRESSES[1]))
    try:
        for name in names:
            _ip("netns", "add", name)
        _ip("link", "add", INTERFACE, "netns", names[0], "type", "veth", "peer", INTERFACE, "netns", names[1])
        for host in hosts:
            within = ("-n", host.name)
            _ip(*within, "address", "add", f"{host.address}/24", "dev", INTERFACE)
            _ip(*within, "link", "set", INTERFACE, "up")
            _ip(*within, "link", "set", "lo", "up")
        yield hosts
    finally:
        for host in hosts:
            if Path("/run/netns", host.name).exists():
                host.kill()
                _ip("netns", "delete", host.name)
