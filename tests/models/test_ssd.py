"""State-space duality against its recurrence in float64: outputs, gradients, large steps, passing over."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fakesound.models.ssd import CHUNK_TOKENS, segment_sums, state_space_duality

TOLERANCE = 1e-5


def recurrence(*, x_SBLHP, delta_SBLH, A_SH, B_SBLN, C_SBLN, D_SH):
    """The formula of `state_space_duality`, one token after the other; the second direction is flipped."""
    sequences = (x_SBLHP, delta_SBLH, B_SBLN, C_SBLN)
    flipped = [torch.stack([one if s == 0 else one.flip(1) for s, one in enumerate(q)]) for q in sequences]
    h_SBHNP = x_SBLHP.new_zeros(1)
    ys = []
    for x_SBHP, delta_SBH, B_SBN, C_SBN in zip(*(one.unbind(2) for one in flipped), strict=True):
        decay_SBH = torch.exp(delta_SBH * A_SH[:, None])
        entering_SBHNP = B_SBN[:, :, None, :, None] * (delta_SBH[..., None] * x_SBHP)[..., None, :]
        h_SBHNP = decay_SBH[..., None, None] * h_SBHNP + entering_SBHNP
        ys.append((C_SBN[:, :, None, :, None] * h_SBHNP).sum(3) + D_SH[:, None, :, None] * x_SBHP)
    y_SBLHP = torch.stack(ys, dim=2)
    return torch.stack([one if s == 0 else one.flip(1) for s, one in enumerate(y_SBLHP)])


def draw(*, S=2, B=2, L=70, H=2, P=3, N=4, largest_step=0.1, seed=0):
    torch.manual_seed(seed)
    return {
        "x_SBLHP": torch.randn(S, B, L, H, P, dtype=torch.float64),
        "delta_SBLH": largest_step * torch.rand(S, B, L, H, dtype=torch.float64) ** 3,
        "A_SH": -1 - 15 * torch.rand(S, H, dtype=torch.float64),
        "B_SBLN": torch.randn(S, B, L, N, dtype=torch.float64),
        "C_SBLN": torch.randn(S, B, L, N, dtype=torch.float64),
        "D_SH": torch.randn(S, H, dtype=torch.float64),
    }


def outputs_and_gradients(scan, inputs, dtype):
    leaves = {name: tensor.to(dtype).requires_grad_() for name, tensor in inputs.items()}
    y_SBLHP = scan(**leaves)
    torch.manual_seed(1)
    (y_SBLHP * torch.randn(y_SBLHP.shape, dtype=torch.float64).to(dtype)).sum().backward()
    return {"y": y_SBLHP.detach()} | {name: leaf.grad for name, leaf in leaves.items()}


def assert_close_in_max_norm(inputs, tolerance=TOLERANCE):
    # Both start from the same single-precision numbers.
    inputs = {name: tensor.float().double() for name, tensor in inputs.items()}
    have = outputs_and_gradients(state_space_duality, inputs, torch.float32)
    want = outputs_and_gradients(recurrence, inputs, torch.float64)
    for name, value in want.items():
        error = (have[name].double() - value).abs().max()
        assert error <= tolerance * value.abs().max(), (name, error.item())


@settings(max_examples=25, deadline=None)
@given(
    S=st.integers(1, 2),
    B=st.integers(1, 3),
    L=st.sampled_from([1, 2, CHUNK_TOKENS - 1, CHUNK_TOKENS, CHUNK_TOKENS + 1, 3 * CHUNK_TOKENS + 5]),
    H=st.integers(1, 3),
    P=st.integers(1, 5),
    N=st.integers(1, 6),
    largest_step=st.sampled_from([1e-3, 0.1, 1.0, 10.0]),
)
def test_outputs_and_gradients_are_the_recurrences(*, S, B, L, H, P, N, largest_step):
    assert_close_in_max_norm(draw(S=S, B=B, L=L, H=H, P=P, N=N, largest_step=largest_step))


def test_long_sequences_lose_no_precision():
    assert_close_in_max_norm(draw(B=1, L=2048, H=1, largest_step=10.0))


def test_a_small_step_after_huge_ones_keeps_its_digits():
    """The difference of two running sums of one chunk would be wrong in its third digit here."""
    inputs = draw(S=1, B=1, L=CHUNK_TOKENS, H=1, P=1, N=1)
    inputs["delta_SBLH"].fill_(100)
    inputs["delta_SBLH"][:, :, -4:] = 1e-2
    inputs["x_SBLHP"][:, :, -4:] = 0
    assert_close_in_max_norm(inputs)


def test_gradcheck():
    inputs = draw(B=1, L=CHUNK_TOKENS + 3, H=2, P=1, N=2, largest_step=1.0)
    names = list(inputs)
    tensors = [tensor.requires_grad_() for tensor in inputs.values()]

    def scan(*tensors):
        return state_space_duality(**dict(zip(names, tensors, strict=True)))

    assert torch.autograd.gradcheck(scan, tensors, fast_mode=True)


def test_a_token_without_a_step_is_passed_over():
    inputs = draw(L=CHUNK_TOKENS + 9)
    inputs["delta_SBLH"][:, :, 5:40] = 0
    kept = torch.tensor([*range(5), *range(40, CHUNK_TOKENS + 9)])
    without = {
        name: tensor.index_select(2, kept) if tensor.ndim > 2 else tensor for name, tensor in inputs.items()
    }
    torch.testing.assert_close(
        state_space_duality(**inputs)[:, :, kept], state_space_duality(**without), atol=1e-12, rtol=1e-12
    )


def test_segment_sums():
    values = torch.tensor([1.0, 20.0, 300.0])
    assert segment_sums(values).tolist() == [[0, 20, 320], [0, 0, 300], [0, 0, 0]]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_scanned_in_single(dtype):
    inputs = {name: tensor.to(dtype) for name, tensor in draw().items()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        have = state_space_duality(**inputs)
    assert have.dtype == torch.float32
    want = state_space_duality(**{name: tensor.float() for name, tensor in inputs.items()})
    torch.testing.assert_close(have, want)
