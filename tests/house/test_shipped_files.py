"""What ships with the code stays true: locks, manifests, README."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("lock", ["bootstrap.txt", "runtime.txt", "dev.txt", "cuda.txt"])
def test_every_locked_package_is_pinned_and_hashed_and_no_host_is_named(lock):
    text = (ROOT / "requirements" / lock).read_text()
    assert "://" not in text
    entries = re.split(r"\n(?=[a-z0-9])", text.strip(), flags=re.IGNORECASE)
    assert len(entries) >= 1
    for entry in entries:
        assert re.match(r"[A-Za-z0-9._-]+(\[[a-z0-9,]+\])?==\S+", entry), entry
        assert "--hash=sha256:" in entry, entry


def pins(lock):
    text = (ROOT / "requirements" / lock).read_text()
    return set(re.findall(r"^([a-z0-9._-]+)==(\S+)", text, re.MULTILINE))


def test_dev_lock_pins_what_the_runtime_lock_pins():
    assert pins("runtime.txt") <= pins("dev.txt")


def test_cuda_lock_contradicts_the_runtime_lock_nowhere():
    runtime = pins("runtime.txt")
    locked = {name for name, _ in runtime}
    assert {pin for pin in pins("cuda.txt") if pin[0] in locked} <= runtime


def test_manifests_are_plain_yaml_objects_without_latest_tags():
    paths = sorted((ROOT / "manifests").glob("*.yaml"))
    assert paths[0].name == "00-namespace.yaml"
    for path in paths:
        for document in yaml.safe_load_all(path.read_text()):
            assert {"apiVersion", "kind", "metadata"} <= set(document)
        assert ":latest" not in path.read_text()
