"""What the passes over edges need of their vectors, found once a call: lengths, frames, envelopes; and the way back to vectors."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from atomjet.data import Graph
from atomjet.models.escn_md import neighbor_limit
from atomjet.models.escn_md.general import EscnMd
from atomjet.ops.wigner import rotations_to_y, wigner_blocks


class EdgeGeometry(NamedTuple):
    """Edges of a graph for lmax = 2; those beyond the limit on neighbours have no envelope."""

    lengths: Tensor  # (E,) Å
    rotation: Tensor  # (E, 3, 3) to the frame of the edge; its rows are x, the edge's direction, z
    wigner: Tensor  # (E, 35) the blocks of 1, 9 and 25 numbers of l = 0, 1, 2
    envelope: Tensor  # (E,)
    envelope_slope: Tensor  # (E,) 1/Å

    @classmethod
    def of(cls, model: EscnMd, graph: Graph) -> EdgeGeometry:
        """From the vectors of a graph."""
        lengths = torch.linalg.vector_norm(graph.vectors, dim=1)
        rotation = rotations_to_y(graph.vectors / lengths[:, None])
        wigner = torch.cat([block.flatten(1) for block in wigner_blocks(rotation, 2)], dim=1)
        envelope, slope = model.envelope(lengths), model.envelope_slope(lengths)
        counted = neighbor_limit.weights(graph, model.config.max_neighbors)
        if counted is not None:
            envelope, slope = envelope * counted, slope * counted
        return cls(lengths, rotation, wigner, envelope, slope)

    def gradients(self, along: Tensor, envelope_bar: Tensor, about_x: Tensor, about_z: Tensor) -> Tensor:
        """dE/d(edge vectors) (E, 3) from dE/dd other than by the envelope, dE/d(envelope), and torques about x and z, (E,) each."""
        along = along + envelope_bar * self.envelope_slope
        x, y, z = self.rotation.unbind(1)
        across = about_z[:, None] * x - about_x[:, None] * z
        return along[:, None] * y + across / self.lengths[:, None]
