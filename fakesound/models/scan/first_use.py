"""Before any work on a GPU: does what was built elsewhere compute what the reference computes?

A wheel can load and be wrong: built for another torch, or without code for this GPU. One small scan tells.

Shapes: S directions, B batch, L tokens, D inner channels, N state, K taps.
"""

from collections.abc import Callable, Sequence
from types import ModuleType

import torch
from torch import Tensor

from fakesound.core.errors import UserError
from fakesound.models.scan.types import ScanInputs

TOLERANCE = 1e-3  # a hundred times what single precision needs, and far less than any fault
SIZES = {"S": 2, "B": 2, "L": 70, "D": 136, "N": 16, "K": 4}

_ADVICE = (
    "`fakesound doctor` says what is known against the installed versions; "
    "FAKESOUND_SCAN_BACKEND=portable does without them"
)

Function = Callable[[Sequence[Tensor]], Tensor]


@torch.inference_mode(mode=False)
def check_backend(
    name: str, candidate: ModuleType, reference: ModuleType, device: torch.device | str
) -> None:
    """Compare both functions of a backend with the reference's, outputs and gradients, on seeded inputs.

    Args:
        name: of the candidate, for the message.
        candidate: a module with `selective_scan` and `causal_conv_silu`, as `fakesound.models.scan` says.
        reference: another one.
        device: where the candidate is to run.

    Raises:
        UserError: one fails, or gives another result; the message says which and what to do.
    """
    mask_BL = torch.ones(SIZES["B"], SIZES["L"], dtype=torch.bool, device=device)
    mask_BL[1, -SIZES["L"] // 3 :] = False

    def scan_by(backend: ModuleType) -> Function:
        return lambda tensors: backend.selective_scan(ScanInputs(*tensors[:-1]), tensors[-1], mask_BL)

    def convolve_by(backend: ModuleType) -> Function:
        return lambda tensors: backend.causal_conv_silu(*tensors)

    with torch.autocast(torch.device(device).type, enabled=False):
        check_kernels(f"{name}: scan", scan_by(candidate), scan_by(reference), _scan_tensors(device))
        check_kernels(
            f"{name}: convolution", convolve_by(candidate), convolve_by(reference), _conv_tensors(device)
        )


def check_kernels(
    name: str,
    candidate: Function,
    expected: Function,
    inputs: dict[str, Tensor],
    *,
    tolerance: float = TOLERANCE,
) -> None:
    """Compare two functions of the same tensors: the output, and the gradient of each input.

    Args:
        name: of the candidate, for the message.
        candidate: called in single precision.
        expected: called in double precision.
        inputs: by name, in the order in which both take them.
        tolerance: largest difference, relative to the largest element of what was expected.

    Raises:
        UserError: the candidate fails, or differs; the message says in what and what to do.
    """
    want = _output_and_gradients(expected, [tensor.double() for tensor in inputs.values()])
    try:
        have = _output_and_gradients(candidate, [tensor.float() for tensor in inputs.values()])
    except Exception as error:  # a wheel of another torch, CUDA or GPU fails in many ways
        reason = f"{type(error).__name__}: {error!s:.200}"
        raise UserError(f"{name} fails on this device ({reason}); {_ADVICE}") from error
    compared = ["the output", *(f"the gradient of {what}" for what in inputs)]
    for what, wanted, got in zip(compared, want, have, strict=True):
        difference = ((got.double() - wanted).abs().max() / wanted.abs().max()).item()
        if not difference <= tolerance:  # NaN is not
            raise UserError(
                f"{name} is wrong on this device: {what} differs from the reference by "
                f"{difference:.0e} of its largest element; {_ADVICE}"
            )


def _output_and_gradients(function: Function, tensors: Sequence[Tensor]) -> list[Tensor]:
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    with torch.enable_grad():
        output = function(leaves)
        generator = torch.Generator().manual_seed(1)
        weights = torch.randn(output.shape, generator=generator, dtype=torch.float64).to(output)
        gradients = torch.autograd.grad((output * weights).sum(), leaves)
    return [output.detach(), *gradients]


def _scan_tensors(device: torch.device | str) -> dict[str, Tensor]:
    S, B, L, D, N = (SIZES[letter] for letter in "SBLDN")
    draw = _Draw(device)
    return {
        "u": draw(S, B, L, D),
        "delta": draw(S, B, L, D),
        "A": -draw(S, D, N).exp(),
        "B": draw(S, B, L, N),
        "C": draw(S, B, L, N),
        "D": draw(S, D),
        "delta's bias": draw(S, D) - 2,
        "z": draw(B, L, D),
    }


def _conv_tensors(device: torch.device | str) -> dict[str, Tensor]:
    S, B, L, D, K = (SIZES[letter] for letter in "SBLDK")
    draw = _Draw(device)
    return {
        "x": draw(B, L, D),
        "the weights": draw(S, D, K),
        "the bias": draw(S, D),
    }


class _Draw:
    """Normal numbers, the same on every device."""

    def __init__(self, device: torch.device | str) -> None:
        self._device = device
        self._generator = torch.Generator().manual_seed(0)

    def __call__(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self._generator).to(self._device)
