import json

import pytest
import torch

from fakesound.core.errors import IntegrityError
from fakesound.core.store import Place, Store
from fakesound.training.checkpoint import (
    Checkpoint,
    TrainingState,
    load_checkpoint,
    load_latest,
    save_checkpoint,
)
from fakesound.training.randomness import encode_random_state


@pytest.fixture
def place(tmp_path):
    return Store(str(tmp_path)).place("training", "run")


def checkpoint(step, best_step=None, fill=None):
    state = TrainingState(
        request_key="key",
        step=step,
        epoch=step,
        epoch_so_far={"steps": 1, "seconds": 0.5, "loader_seconds": 0.1, "sums": [[0.1] * 4]},
        score=0.5,
        best_step=best_step or step,
        best_score=0.5,
        random_states=[{"cpu": encode_random_state(torch.get_rng_state()), "cuda": None}],
        records=[{"epoch": step}],
    )
    tensors = {
        "model.weight": torch.full((3, 2), float(step if fill is None else fill)),
        "optimizer.weight.step": torch.tensor(4.0),
        "model.num_batches_tracked": torch.tensor(7),
    }
    return Checkpoint(tensors, state)


def steps(place):
    return sorted({int(name.split("-")[1][:8]) for name in place.names() if "step-" in name})


def test_comes_back_as_it_was(place):
    saved = checkpoint(3)
    save_checkpoint(place, saved, keep=2)
    loaded = load_latest(place, "key")
    assert loaded is not None
    assert loaded.state == saved.state
    assert loaded.tensors.keys() == saved.tensors.keys()
    for name, tensor in saved.tensors.items():
        assert torch.equal(loaded.tensors[name], tensor)
        assert loaded.tensors[name].dtype == tensor.dtype


def test_the_latest_few_and_the_best_are_kept(place):
    for step in range(1, 8):
        save_checkpoint(place, checkpoint(step, best_step=min(step, 2)), keep=2)
    assert steps(place) == [2, 6, 7]


def test_nothing_there_is_no_error(place):
    assert load_latest(place, "key") is None


@pytest.mark.parametrize("failing_write", [0, 1])
@pytest.mark.parametrize("before_content", [True, False])
def test_a_crash_at_any_write_leaves_the_one_before(place, monkeypatch, failing_write, before_content):
    save_checkpoint(place, checkpoint(1), keep=2)
    real, calls = Place.write_bytes, []

    def crash(self, name, data):
        calls.append(name)
        if len(calls) - 1 == failing_write:
            if not before_content:
                real(self, name, data)
            raise KeyboardInterrupt
        real(self, name, data)

    with monkeypatch.context() as patched:
        patched.setattr(Place, "write_bytes", crash)
        with pytest.raises(KeyboardInterrupt):
            save_checkpoint(place, checkpoint(2), keep=2)
    loaded = load_latest(place, "key")
    assert loaded is not None
    written_whole = failing_write == 1 and not before_content
    assert loaded.state.step == (2 if written_whole else 1)
    save_checkpoint(place, checkpoint(2), keep=2)
    again = load_latest(place, "key")
    assert again is not None
    assert again.state.step == 2


def test_a_crash_while_deleting_old_ones_leaves_the_new_one(place, monkeypatch):
    for step in (1, 2):
        save_checkpoint(place, checkpoint(step, best_step=2), keep=1)

    def crash(self, name):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Place, "remove", crash)
        with pytest.raises(KeyboardInterrupt):
            save_checkpoint(place, checkpoint(3), keep=1)
    loaded = load_latest(place, "key")
    assert loaded is not None
    assert loaded.state.step == 3
    save_checkpoint(place, checkpoint(4), keep=1)
    assert steps(place) == [4]


def cut(data):
    return data[: len(data) // 2]


def flip(data):
    return data[:-1] + bytes([data[-1] ^ 1])


def other_schema(data):
    return json.dumps(json.loads(data) | {"schema": 99}).encode()


def missing_key(data):
    return json.dumps({k: v for k, v in json.loads(data).items() if k != "records"}).encode()


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("tensors.safetensors", cut),
        ("tensors.safetensors", flip),
        ("tensors.safetensors", lambda data: b""),
        ("state.json", cut),
        ("state.json", lambda data: b""),
        ("state.json", lambda data: b"[]"),
        ("state.json", other_schema),
        ("state.json", missing_key),
    ],
)
def test_a_damaged_newest_one_is_skipped_with_a_warning(place, capsys, name, damage):
    for step in (1, 2):
        save_checkpoint(place, checkpoint(step), keep=2)
    path = f"checkpoints/step-00000002/{name}"
    place.write_bytes(path, damage(place.read_bytes(path)))
    loaded = load_latest(place, "key")
    assert loaded is not None
    assert loaded.state.step == 1
    assert "warning: checkpoint of step 2 skipped" in capsys.readouterr().out


def test_tensors_of_another_write_do_not_fit_the_state(place):
    save_checkpoint(place, checkpoint(1, fill=0), keep=2)
    old = place.read_bytes("checkpoints/step-00000001/tensors.safetensors")
    save_checkpoint(place, checkpoint(1, fill=1), keep=2)
    place.write_bytes("checkpoints/step-00000001/tensors.safetensors", old)
    with pytest.raises(IntegrityError, match="not what"):
        load_checkpoint(place, 1, "key")


def test_a_checkpoint_of_another_training_is_not_taken(place):
    save_checkpoint(place, checkpoint(1), keep=2)
    assert load_latest(place, "another") is None
