"""Muon: momentum whose updates are orthogonalized; small networks learn in far fewer steps with it.

Source: K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024), with the
scale of J. Liu et al., "Muon is scalable for LLM training" (2025), so that AdamW's learning rates
apply.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic iteration
ITERATIONS = 5
SCALE = 0.2  # root mean square of an AdamW update


class Muon(torch.optim.Optimizer):
    """Muon for matrices and convolutions, AdamW for vectors.

    Args:
        parameters: those to train.
        lr: learning rate, as for AdamW.
        weight_decay: decoupled.
        momentum: of the matrices.
        betas, eps: of the vectors.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        weight_decay: float = 1e-4,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-8,
    ) -> None:
        defaults = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "betas": betas,
                    "eps": eps}  # fmt: skip
        super().__init__(parameters, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Updates the parameters that have gradients; there is no closure."""
        for group in self.param_groups:
            for parameter in (p for p in group["params"] if p.grad is not None):
                update = self._matrix if parameter.ndim > 1 else self._vector
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.sub_(update(parameter, group), alpha=group["lr"])

    def _matrix(self, parameter: nn.Parameter, group: dict[str, Any]) -> Tensor:
        state, gradient = self.state[parameter], parameter.grad
        assert gradient is not None
        if not state:
            state["momentum"] = torch.zeros_like(gradient)
        momentum = state["momentum"].mul_(group["momentum"]).add_(gradient)
        ahead = gradient + group["momentum"] * momentum
        direction = orthogonalized(ahead.reshape(len(ahead), -1))
        scale = SCALE * max(direction.shape) ** 0.5
        return scale * direction.view(parameter.shape)

    def _vector(self, parameter: nn.Parameter, group: dict[str, Any]) -> Tensor:
        state, gradient = self.state[parameter], parameter.grad
        assert gradient is not None
        if not state:
            state.update(step=0, mean=torch.zeros_like(gradient), square=torch.zeros_like(gradient))
        state["step"] += 1
        first, second = group["betas"]
        state["mean"].lerp_(gradient, 1 - first)
        state["square"].lerp_(gradient**2, 1 - second)
        mean = state["mean"] / (1 - first ** state["step"])
        square = state["square"] / (1 - second ** state["step"])
        return mean / (square.sqrt() + group["eps"])


def orthogonalized(matrix: Tensor) -> Tensor:
    """The nearest (semi-)orthogonal matrix, approximately: all singular values become about 1."""
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x
