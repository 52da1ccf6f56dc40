"""One step, however it is cut, recomputed or compiled: the same gradient."""

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from rank_processes import run
from tiny import last_checkpoint
from torch.optim import SGD

from fakesound.core.errors import UserError
from fakesound.features.reader import FeatureSet
from fakesound.models.build import build_detector
from fakesound.models.config import FCNResNetConfig, Mamba2Config, TransformerConfig, VisionMambaConfig
from fakesound.training.config import TrainingConfig
from fakesound.training.data import ClipBank, StepPlan, plan_epoch
from fakesound.training.execution import prepare
from fakesound.training.ranks import Ranks
from fakesound.training.step import Stepper, cut
from fakesound.training.trainer import train

CPU = torch.device("cpu")
TINY_VIM = VisionMambaConfig(embed_dim=16, depth=2, dropout=0.2, drop_path=0.3)


@pytest.fixture
def bank(tiny_features):
    features = FeatureSet.open(tiny_features)
    return ClipBank.read(features, "train", features.metadata["protocol"])


def gradient(detector, bank, **options):
    """Gradients of the first step of an epoch, and its values; dropout draws alike in each call."""
    config = TrainingConfig.parse({"clip_norm": 1e9, "schedule": {"peak_lr": 1.0}} | options)
    found = {}

    class Keep(SGD):
        def step(self):
            found.update({name: p.grad.clone() for name, p in detector.named_parameters()})

    stepper = Stepper(
        model=prepare(detector, config, Ranks(), CPU),
        detector=detector,
        optimizer=Keep(detector.parameters()),
        config=config,
        total_steps=9,
        ranks=Ranks(),
        device=CPU,
        clips=bank,
        augmentation=None,
    )
    plan = plan_epoch(bank.num_frames, bank.row_groups, batch_clips=7, seed=0, epoch=0)[0]
    torch.manual_seed(1)
    values = stepper.take(0, stepper.make_batches(plan, 0))
    return found, values


@pytest.mark.parametrize("pieces", [2, 3, 7, 100])
def test_the_gradient_of_the_pieces_is_that_of_the_whole_batch(bank, pieces):
    torch.manual_seed(0)
    detector = tiny.build_without_chance(None, 20)
    whole, values = gradient(detector, bank)
    cut_up, cut_values = gradient(detector, bank, accumulate_steps=pieces)
    torch.testing.assert_close(cut_values, values, rtol=1e-5, atol=1e-7)
    for name, expected in whole.items():
        torch.testing.assert_close(cut_up[name], expected, rtol=1e-5, atol=1e-7, msg=name)


@given(st.integers(1, 20), st.integers(1, 30))
def test_a_step_is_cut_into_pieces_that_are_not_empty(clips, pieces):
    own = np.arange(clips)
    plan = StepPlan(own, own % 3, own[::-1], own % 2 == 0, num_clips=50, num_frames=900, window=3)
    parts = list(cut(plan, pieces))
    assert len(parts) == min(clips, pieces)
    assert max(len(part.clips) for part in parts) - min(len(part.clips) for part in parts) <= 1
    for k, whole in enumerate(plan[:4]):
        assert np.concatenate([part[k] for part in parts]).tolist() == whole.tolist()
    assert all(part[4:] == plan[4:] for part in parts)


def test_processes_that_accumulate_exchange_whole_gradients(tiny_model_without_chance, make_request):
    alone = make_request("alone", epochs=1)
    train(alone, Ranks())
    together = make_request("together", epochs=1, world_size=2, accumulate_steps=2)
    assert run(together, 2, build=tiny.build_without_chance) == [0, 0]
    one, two = last_checkpoint(alone), last_checkpoint(together)
    for name, tensor in one.tensors.items():
        torch.testing.assert_close(two.tensors[name], tensor, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "config",
    [
        TINY_VIM,
        VisionMambaConfig(embed_dim=16, depth=1, sequence_head_depth=1),
        TransformerConfig(embed_dim=16, depth=2, num_heads=2, drop_path=0.3),
        Mamba2Config(embed_dim=16, depth=2, num_heads=2, dropout=0.2),
    ],
    ids=lambda config: config.kind,
)
def test_recomputed_activations_give_the_same_gradient(bank, config):
    torch.manual_seed(0)
    detector = build_detector(config, 20)
    detector.train()
    kept, values = gradient(detector, bank)
    recomputed, same_values = gradient(detector, bank, activation_checkpointing=True)
    assert torch.equal(values, same_values)
    assert all(torch.equal(recomputed[name], expected) for name, expected in kept.items())
    with torch.inference_mode():
        detector.eval()(torch.zeros(1, 30, 20), torch.ones(1, 30, dtype=torch.bool))


def test_fewer_activations_are_kept(bank):
    """Bytes that autograd holds between forward and backward, at eight layers."""
    config = VisionMambaConfig(embed_dim=16, depth=8)
    held = []
    for recompute in (False, True):
        detector = build_detector(config, 20).train()
        options = TrainingConfig.parse({"activation_checkpointing": recompute})
        model, total = prepare(detector, options, Ranks(), CPU), []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor, total=total: total.append(tensor.nbytes) or tensor, lambda tensor: tensor
        ):
            model(torch.randn(2, 120, 20), torch.ones(2, 120, dtype=torch.bool))
        held.append(sum(total))
    assert held[1] < held[0] / 4


@pytest.mark.parametrize("option", ["activation_checkpointing", "compile"])
def test_models_without_blocks_are_told_so(option):
    detector = build_detector(FCNResNetConfig(widths=(4,), depths=(1,), time_strides=(1,)), 20)
    with pytest.raises(UserError, match=f"training.{option} is for models over patches"):
        prepare(detector, TrainingConfig.parse({option: True}), Ranks(), CPU)


def test_blocks_are_not_both_compiled_and_recomputed():
    with pytest.raises(UserError, match="choose one of"):
        TrainingConfig.parse({"compile": True, "activation_checkpointing": True})


@pytest.mark.slow
def test_compiled_blocks_train_to_the_same_numbers(make_request):
    """Over clips of many lengths."""
    model = VisionMambaConfig(embed_dim=16, depth=2, patch_mels=20, patch_frames=4, dropout=0.0)
    plain, compiled = (
        make_request(name, epochs=2, compile=name == "compiled").model_copy(update={"model": model})
        for name in ("plain", "compiled")
    )
    train(plain, Ranks())
    train(compiled, Ranks())
    one, two = last_checkpoint(plain), last_checkpoint(compiled)
    assert one.tensors.keys() == two.tensors.keys()
    for a, b in zip(one.state.records, two.state.records, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)
        assert a["gradient_norm"] == pytest.approx(b["gradient_norm"], rel=1e-3)
