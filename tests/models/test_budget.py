"""Counting what a model costs, and models of equal size."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from fakesound.core.errors import UserError
from fakesound.models import budget
from fakesound.models.budget import (
    CLIP_FRAMES,
    count_flops,
    match_budget,
    mixer_flops,
    scan_flops,
    unallocated,
)
from fakesound.models.build import build_detector
from fakesound.models.config import (
    BudgetConfig,
    FCNResNetConfig,
    Mamba2Config,
    TransformerConfig,
    VisionMambaConfig,
    model_presets,
    parse_model_config,
)
from fakesound.models.detector import count_parameters
from fakesound.models.vim import BidirectionalMixer

MELS = 40
PRESETS = model_presets()
FIRST_OF_KIND = {config.kind: config for config in reversed(PRESETS.values())}
every_kind = pytest.mark.parametrize("kind", FIRST_OF_KIND)


@every_kind
def test_parameters_are_counted_without_memory_for_them(kind):
    config = FIRST_OF_KIND[kind]
    detector = unallocated(config, MELS)
    assert {parameter.device.type for parameter in detector.parameters()} == {"meta"}
    assert count_parameters(detector) == count_parameters(build_detector(config, MELS))


@every_kind
@pytest.mark.parametrize("times", [0.1, 0.5, 1, 3, 30])
def test_every_kind_is_brought_within_a_tenth_of_a_budget_of_parameters(kind, times):
    config = FIRST_OF_KIND[kind]
    wanted = int(times * count_parameters(unallocated(config, MELS)))
    matched = match_budget(config, num_mels=MELS, parameters=wanted)
    have = count_parameters(build_detector(matched, MELS))
    assert abs(have - wanted) <= 0.1 * wanted
    assert matched.kind == kind
    assert parse_model_config(matched.model_dump(mode="json")) == matched


@every_kind
def test_every_kind_is_brought_within_a_tenth_of_a_budget_of_operations(kind):
    config = FIRST_OF_KIND[kind]
    wanted = 0.7 * count_flops(config, MELS)
    matched = match_budget(config, num_mels=MELS, gflops=wanted / 1e9)
    assert abs(count_flops(matched, MELS) - wanted) <= 0.1 * wanted
    assert matched != config


@every_kind
def test_only_the_width_changes(kind):
    config = FIRST_OF_KIND[kind]
    before, after = config.model_dump(), config.widened(2).model_dump()
    changed = {key for key in before if before[key] != after[key]}
    assert len(changed) == 1 and changed <= {"embed_dim", "width_multiplier"}
    assert config.widened(1) == config


def test_the_factor_is_clamped_where_a_field_ends():
    assert VisionMambaConfig(embed_dim=96).widened(1e-3).embed_dim == 8
    assert VisionMambaConfig(embed_dim=96).widened(1e3).embed_dim == 4096
    assert FCNResNetConfig().widened(1e-3).width_multiplier == 0.05
    assert FCNResNetConfig().widened(1e3).width_multiplier == 16


def test_nothing_much_larger_than_asked_for_is_measured(monkeypatch):
    measured = []

    def record(config, num_mels):
        measured.append(count_flops(config, num_mels))
        return measured[-1]

    wanted = 0.4 * count_flops(FIRST_OF_KIND["vim"], MELS)
    monkeypatch.setattr(budget, "count_flops", record)
    match_budget(VisionMambaConfig(embed_dim=24), num_mels=MELS, gflops=wanted / 1e9)
    assert max(measured) < 1.2 * wanted
    assert len(measured) < 10


def test_an_impossible_budget_is_refused_with_the_nearest():
    with pytest.raises(UserError, match="no width of vim has 100 parameters within 10%: the nearest has"):
        match_budget(VisionMambaConfig(), num_mels=MELS, parameters=100)
    with pytest.raises(UserError, match="operations within 10%"):
        match_budget(FCNResNetConfig(), num_mels=MELS, gflops=1e-9)
    with pytest.raises(ValueError, match="either"):
        match_budget(FCNResNetConfig(), num_mels=MELS)


@pytest.mark.parametrize(
    "values", [{}, {"parameters": 5, "gflops": 1.0}, {"parameters": 0}, {"match": "width"}]
)
def test_a_budget_names_one_thing(values):
    with pytest.raises(UserError, match="BudgetConfig"):
        BudgetConfig.parse(values)


class Counted:
    """A number that counts what is done with it."""

    done = 0

    def __add__(self, other):
        Counted.done += 1
        return self

    __mul__ = __add__


def test_a_scan_is_counted_as_its_formula_is_worked_out_by_hand():
    channels, states, tokens = 5, 3, 7
    Counted.done = 0
    for _ in range(channels):
        h, A, B, C = ([Counted()] * states for _ in range(4))
        delta, u, D = Counted(), Counted(), Counted()
        for _ in range(tokens):
            entered = delta * u
            h = [(delta * A[n]) * h[n] + B[n] * entered for n in range(states)]  # the exponential is free
            y = D * u
            for n in range(states):
                y = y + C[n] * h[n]
    assert tokens * scan_flops(channels, states) == Counted.done


def test_a_mixers_matrix_products_are_what_torch_counts():
    config = VisionMambaConfig(embed_dim=24, depth=1, d_state=4)
    mixer, tokens = BidirectionalMixer(config), 11
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        mixer(torch.randn(1, tokens, 24), torch.ones(1, tokens, dtype=torch.bool))
    scan_and_convolution = tokens * 2 * (scan_flops(48, 4) + 48 * 2 * 4)
    assert mixer_flops(mixer, tokens) - scan_and_convolution == counter.get_total_flops()


def test_a_vims_operations_are_those_of_its_patches_mixers_and_heads():
    config = VisionMambaConfig(embed_dim=24, depth=3, d_state=4, patch_mels=20, patch_frames=20)
    tokens = CLIP_FRAMES // 20 * 2
    patches = 2 * tokens * 400 * 24
    heads = 2 * 24 * (1 + CLIP_FRAMES // 20)
    mixers = 3 * mixer_flops(BidirectionalMixer(config), tokens + 1)
    assert count_flops(config, MELS) == patches + mixers + heads


def test_a_transformers_operations_grow_with_the_square_of_its_tokens():
    config = TransformerConfig(embed_dim=24, depth=3, num_heads=2, patch_mels=20, patch_frames=20)
    patches, tokens = CLIP_FRAMES // 20 * 2, CLIP_FRAMES // 20 * 2 + 1
    linear = 2 * patches * 400 * 24 + 2 * 24 * (1 + CLIP_FRAMES // 20)
    layer = 2 * tokens * 24 * 24 * (4 + 8) + 4 * tokens**2 * 24  # projections and MLP; scores and mixing
    assert count_flops(config, MELS) == linear + 3 * layer


def test_the_convolution_of_mamba2_is_counted():
    config = Mamba2Config(embed_dim=24, depth=1, num_heads=2, patch_mels=20, patch_frames=20)
    tokens, channels = CLIP_FRAMES // 20 * 2 + 1, 2 * 24 + 2 * config.d_state
    counts = [count_flops(config.model_copy(update={"d_conv": taps}), MELS) for taps in (4, 5)]
    assert counts[1] - counts[0] == tokens * 2 * 2 * channels


def test_counting_needs_no_scan_backend(monkeypatch):
    config = VisionMambaConfig(embed_dim=16, depth=1)
    want = count_flops(config, MELS)
    monkeypatch.setenv("FAKESOUND_SCAN_BACKEND", "none that exists")
    assert count_flops(config, MELS) == want


def test_a_model_that_takes_no_ten_seconds_has_no_count_of_operations():
    config = VisionMambaConfig(embed_dim=16, depth=1, max_frames=500)
    with pytest.raises(UserError, match=r"no more than 500 frames: set max_frames to 1000"):
        count_flops(config, MELS)


def test_every_kind_has_a_preset_and_vim_its_sizes():
    wanted = {f"vim {size}" for size in ("micro", "tiny", "small", "base")}
    wanted |= {f"fcn_resnet {size}" for size in ("micro", "18", "50")} | {"deeplab_mobilenet", "lcnn"}
    wanted |= {f"{kind} {size}" for kind in ("transformer", "mamba2") for size in ("micro", "tiny", "small")}
    assert wanted == set(PRESETS)
    millions = {name: count_parameters(unallocated(config, 128)) / 1e6 for name, config in PRESETS.items()}
    assert 25 < millions["vim small"] < 27  # Vim-S: 26 M
    assert 95 < millions["vim base"] < 100  # Vim-B: 98 M
