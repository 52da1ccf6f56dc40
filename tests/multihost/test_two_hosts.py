"""Training on two hosts that go away in turn, run as pods would run it: the same weights, bit for bit."""

import os
import sys
import time
from pathlib import Path

import pytest
from torchx.specs import macros
from two_hosts import ADDRESSES, INTERFACE, two_hosts, why_not

from fakesound.core.store import Store
from fakesound.features.config import FeatureConfig
from fakesound.features.extract import extract_features
from fakesound.models.config import VisionMambaConfig
from fakesound.orchestration.launch_config import LaunchConfig
from fakesound.orchestration.tracking import Tracking
from fakesound.orchestration.training_app import TrainingJob, training_app
from fakesound.orchestration.worker import REQUEST_NAME
from fakesound.training.checkpoint import load_latest
from fakesound.training.config import TrainingConfig
from fakesound.training.request import TrainingRequest, training_place

pytestmark = [pytest.mark.multihost, pytest.mark.skipif(bool(why_not()), reason=why_not())]

ROOT = Path(__file__).parents[2]
FRONT_END = FeatureConfig(sample_rate_hz=8000, n_fft=256, hop_samples=80, num_mels=20)
EPOCHS = 60
FIRST_NODE = "FIRST_NODE"
PATIENCE_S = 240.0


class Training:
    """One training of a tiny corpus by a process on each of two hosts."""

    def __init__(self, folder, hosts, features, *, min_nodes=None):
        self.hosts = hosts
        self.store = Store(str(folder / "store"))
        self.log = folder / "log"
        self.request = TrainingRequest(
            features=features,
            store_url=self.store.url,
            model=VisionMambaConfig(embed_dim=16, depth=2),
            training=TrainingConfig.parse({"epochs": EPOCHS, "batch_clips": 6, "checkpoint_every_steps": 3}),
            world_size=2,
        )
        self.place = training_place(self.store, self.request)
        with self.place.writing(REQUEST_NAME) as path:
            self.request.write(path)
        launch = {
            "nodes": 2,
            "min_nodes": min_nodes,
            "processes": 1,
            "env": {"GLOO_SOCKET_IFNAME": INTERFACE},
        }
        run = Tracking(self.store).start("train", "training")
        self.job = TrainingJob(
            name=f"train-{self.place.key}",
            arguments=(self.place.uri, run),
            launch=LaunchConfig.parse(launch),
            image="",
        )

    def start(self, number):
        """What the pod of that number runs, on the host of that number."""
        (role,) = training_app(self.job, python=sys.executable).roles
        values = macros.Values(img_root="", app_id="", replica_id=str(number), rank0_env=FIRST_NODE)
        role = values.apply(role)
        # torchx tells the first node that it is here, the others where it is.
        first = "localhost" if number == 0 else ADDRESSES[0]
        env = role.env | {"POD_IP": ADDRESSES[number], FIRST_NODE: first, "PYTHONPATH": str(ROOT)}
        return self.hosts[number].start([role.entrypoint, *role.args], self.log, env)

    def start_both(self):
        return [self.start(number) for number in range(2)]

    def wait_for_step(self, step):
        """Until a checkpoint of that step or a later one is whole."""
        self.wait_until(lambda: self.last_step() >= step)
        assert not self.place.is_complete(), "over before anything could be done to it"

    def wait_until(self, is_so):
        until_s = time.monotonic() + PATIENCE_S
        while not is_so():
            assert time.monotonic() < until_s, self.log.read_text()[-4000:]
            time.sleep(0.05)

    def last_step(self):
        folders = {name.split("/")[1] for name in self.place.names() if name.endswith("/state.json")}
        return max((int(folder.removeprefix("step-")) for folder in folders), default=0)

    def finish(self, processes):
        self.wait_until(lambda: all(process.poll() is not None for process in processes))
        assert [process.returncode for process in processes] == [0] * len(processes), self.log.read_text()[
            -4000:
        ]
        assert self.place.is_complete()

    def result(self):
        checkpoint = load_latest(self.place, self.request.key())
        assert checkpoint is not None
        return checkpoint, self.place.read_bytes("detector/model.safetensors")


@pytest.fixture(scope="module")
def features(tmp_path_factory, make_corpus):
    store = Store(str(tmp_path_factory.mktemp("features")))
    return extract_features(make_corpus(store, num_clips=40), FRONT_END, store)


@pytest.fixture
def hosts(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with two_hosts() as hosts:
        yield hosts


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, features):
    """What the training comes to when nothing happens to it."""
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    with two_hosts() as hosts:
        training = Training(tmp_path_factory.mktemp("whole"), hosts, features)
        training.finish(training.start_both())
        assert "2 process(es) on cpu" in training.log.read_text()
        return training.result()


def assert_the_same(training, expected):
    (one, bundle), (other, other_bundle) = training.result(), expected
    assert bundle == other_bundle
    assert one.tensors.keys() == other.tensors.keys()
    assert all((one.tensors[name] == tensor).all() for name, tensor in other.tensors.items())


def test_hosts_that_go_away_in_turn_and_come_back_change_nothing(tmp_path, hosts, features, uninterrupted):
    training = Training(tmp_path, hosts, features)
    first, second = training.start_both()
    training.wait_for_step(12)
    hosts[1].kill()
    assert second.returncode == -9
    second = training.start(1)  # Volcano makes the pod anew; the first host has waited for it
    training.wait_for_step(training.last_step() + 12)
    assert first.poll() is None
    hosts[0].kill()  # and with it the rendezvous: the other host cannot go on
    training.wait_until(lambda: second.poll() is not None)
    assert second.returncode != 0
    assert not training.place.is_complete()
    training.finish(training.start_both())  # the launcher submits the job again
    assert_the_same(training, uninterrupted)


def test_a_host_that_never_comes_back_leaves_the_other_to_finish_alone(tmp_path, hosts, features):
    training = Training(tmp_path, hosts, features, min_nodes=1)
    first, _ = training.start_both()
    training.wait_for_step(12)
    hosts[1].kill()
    training.finish([first])
    said = training.log.read_text()
    assert "2 process(es) on cpu" in said and "training goes on from step" in said
    checkpoint, _ = training.result()
    assert checkpoint.state.epoch == EPOCHS


def test_nothing_of_the_hosts_is_left(hosts):
    assert all(Path("/run/netns", host.name).exists() for host in hosts)
    with pytest.raises(KeyboardInterrupt), two_hosts("again") as again:
        process = again[0].start(["sleep", "600"], Path(os.devnull), {})
        raise KeyboardInterrupt
    assert process.returncode == -9
    assert not any(Path("/run/netns", host.name).exists() for host in again)
