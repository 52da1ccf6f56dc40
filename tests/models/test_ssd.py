"""State-space duality against its recurrence in float64: outputs, gradients, large steps, passing over."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fakesound.models.ssd import CHUNK_TOKENS, segment_sums, state_space_duality

TOLERANCE = 1e-5


def flip_second(sequences):
    return [torch.stack([one if s == 0 else one.flip(1) for s, one in enumerate(q)]) for q in sequences]


def recurrence(*, x_SBLHP, delta_SBLH, A_SBLH, B_SBLN, C_SBLN, D_SBLH):
    """The formula of `state_space_duality`, one token after the other, A and D repeated for each."""
    h_SBHNP = x_SBLHP.new_zeros(1)
    ys = []
    flipped = flip_second((x_SBLHP, delta_SBLH, A_SBLH, B_SBLN, C_SBLN, D_SBLH))
    for x_SBHP, delta_SBH, A_SBH, B_SBN, C_SBN, D_SBH in zip(*(q.unbind(2) for q in flipped), strict=True):
        decay_SBH = torch.exp(delta_SBH * A_SBH)
        entering_SBHNP = B_SBN[:, :, None, :, None] * (delta_SBH[..., None] * x_SBHP)[..., None, :]
        h_SBHNP = decay_SBH[..., None, None] * h_SBHNP + entering_SBHNP
        ys.append((C_SBN[:, :, None, :, None] * h_SBHNP).sum(3) + D_SBH[..., None] * x_SBHP)
    return flip_second([torch.stack(ys, dim=2)])[0]


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


def outputs_and_gradients(scan, inputs):
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in inputs.items()}
    y_SBLHP = scan(**leaves)
    torch.manual_seed(1)
    cotangent = torch.randn(y_SBLHP.shape, dtype=torch.float64)
    (y_SBLHP * cotangent.to(y_SBLHP.dtype)).sum().backward()
    return {"y": y_SBLHP.detach()} | {name: leaf.grad for name, leaf in leaves.items()}


def repeated(parameter_SH, like_SBLH):
    return parameter_SH[:, None, None].expand_as(like_SBLH)


def assert_close_in_max_norm(inputs):
    inputs = {name: tensor.float() for name, tensor in inputs.items()}
    have = outputs_and_gradients(state_space_duality, inputs)
    exact = {name: tensor.double() for name, tensor in inputs.items()}
    A_SH, D_SH, delta_SBLH = exact.pop("A_SH"), exact.pop("D_SH"), exact["delta_SBLH"]
    want = outputs_and_gradients(
        recurrence, exact | {"A_SBLH": repeated(A_SH, delta_SBLH), "D_SBLH": repeated(D_SH, delta_SBLH)}
    )
    scales = {name: value.abs().max() for name, value in want.items()}
    for name in ("A", "D"):
        terms_SBLH = want.pop(f"{name}_SBLH")
        want[f"{name}_SH"] = terms_SBLH.sum((1, 2))
        # The tokens' shares may all but cancel, in any precision: the yardstick is their sum without signs.
        scales[f"{name}_SH"] = terms_SBLH.abs().sum((1, 2)).max()
    assert want.keys() == have.keys()
    for name, value in want.items():
        error = (have[name].double() - value).abs().max()
        assert error <= TOLERANCE * scales[name], (name, error.item())


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
    never = -torch.inf
    assert segment_sums(values).tolist() == [[0, 20, 320], [never, 0, 300], [never, never, 0]]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_scanned_in_single(dtype):
    inputs = {name: tensor.to(dtype) for name, tensor in draw().items()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        have = state_space_duality(**inputs)
    assert have.dtype == torch.float32
    want = state_space_duality(**{name: tensor.float() for name, tensor in inputs.items()})
    torch.testing.assert_close(have, want)
