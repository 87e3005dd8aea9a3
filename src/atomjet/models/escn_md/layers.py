"""The way through the layers of an eSCN-MD, forward and backward: which step follows which, whoever takes them.

A step reads and writes what its evaluation holds: tensors of exact size in `fast_pytorch`, a workspace in `fast_gpu`.
"""

from __future__ import annotations

from typing import Protocol


class Steps(Protocol):
    """One evaluation, step by step; x are the features of atoms, x̄ = dE/dx."""

    def degrees(self) -> None:
        """First features: embeddings, and sums of the edge degrees."""
        ...

    def messages(self, layer: int) -> None:
        """Add to x the messages over edges, from its norm."""
        ...

    def atom_wise(self, layer: int) -> None:
        """Add to x what its norm gives by itself; balance the charge channels."""
        ...

    def read_out(self) -> None:
        """Energies, and x̄ after the last layer."""
        ...

    def atom_wise_backward(self, layer: int) -> None:
        """x̄ after the step to x̄ before it."""
        ...

    def messages_backward(self, layer: int) -> None:
        """x̄ after the step to x̄ before it; accumulates what belongs to edges."""
        ...

    def degrees_backward(self) -> None:
        """x̄ of the first features to dE/d(edge vectors), with all that was accumulated."""
        ...


def evaluate(steps: Steps, layers: int) -> None:
    """Take all steps once."""
    steps.degrees()
    for layer in range(layers):
        steps.messages(layer)
        steps.atom_wise(layer)
    steps.read_out()
    for layer in reversed(range(layers)):
        steps.atom_wise_backward(layer)
        steps.messages_backward(layer)
    steps.degrees_backward()
