"""An exponential moving average of the weights: smoother than the last step's, and often better."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from fakesound.models.detector import Detector


class WeightAverage:
    """The average of a detector's trainable parameters over the steps, the older the less.

    After step t = 0, 1, ... with weights w_t:

        d_t = min(decay, (1 + t) / (10 + t))
        a_t = d_t * a_{t-1} + (1 - d_t) * w_t,        a_{-1} the initial weights.

    (Polyak & Juditsky, SIAM J. Control Optim. 1992, average without forgetting; the ramp, by which the first
    steps are soon forgotten, is TensorFlow's.) Buffers (running statistics) are averages already and stay the
    detector's own. torch's AveragedModel counts steps on the device and waits for the count at every one.

    Args:
        detector: whose weights are averaged; they are the initial ones now.
        decay: how much of the average stays at each step, in the long run.
    """

    def __init__(self, detector: Detector, decay: float) -> None:
        self._parameters = {n: p for n, p in detector.named_parameters() if p.requires_grad}
        self._decay = decay
        self._averages = {name: p.detach().clone() for name, p in self._parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take the weights after step `step` (0-based) in."""
        decay = min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(  # pyright: ignore[reportPrivateImportUsage]
            list(self._averages.values()), list(self._parameters.values()), 1 - decay
        )

    @contextmanager
    def in_place_of_weights(self) -> Iterator[None]:
        """For the time of the block, the detector has the averages for weights."""
        weights = {name: parameter.detach().clone() for name, parameter in self._parameters.items()}
        self._put(self._averages)
        try:
            yield
        finally:
            self._put(weights)

    def tensors(self) -> dict[str, Tensor]:
        """The averages: parameter -> tensor."""
        return dict(self._averages)

    @torch.no_grad()
    def load(self, tensors: dict[str, Tensor]) -> None:
        """Inverse of `tensors`; where there are none, start from the detector's weights."""
        for name, parameter in self._parameters.items():
            self._averages[name].copy_(tensors.get(name, parameter))

    @torch.no_grad()
    def _put(self, weights: dict[str, Tensor]) -> None:
        for name, parameter in self._parameters.items():
            parameter.copy_(weights[name])
