"""Turn messages from the edges' frames back, weigh them, and sum them at the centers.

    x_n = Σ over edges e whose center is n of f_e D_eᵀ o_e

o (E, R, C) m-major, wigner D (E, R, M), envelope f (E,), x (N, M, C) l-major. With x̄ = dE/dx and t_e = D_e x̄_center(e):

    ō_e = f_e t_e          f̄_e = Σ t_e ⊙ o_e          turn_e = f_e o_e t_eᵀ (R, R)

`turn` as in `node_to_edge_wigner_permute`: with generators L_k, dE/dw_k = Σ L_k ⊙ turn (a turn of the frame turns o the other
way, and L_k is antisymmetric).
"""

from __future__ import annotations

import torch
from torch import Tensor

from atomjet.ops.segment_sum import segment_sum


def permute_wigner_inv_edge_to_node(
    messages: Tensor, wigner: Tensor, envelope: Tensor, row_ptr: Tensor, centers: Tensor
) -> Tensor:
    """(E, R, C), (E, R, M), (E,), rows of edges by center (N + 1,), (E,) to (N, M, C)."""
    return segment_sum(torch.bmm((wigner * envelope[:, None, None]).mT, messages), row_ptr, centers)


def permute_wigner_inv_edge_to_node_backward(
    x_bar: Tensor, messages: Tensor, wigner: Tensor, envelope: Tensor, centers: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return ō (E, R, C), f̄ (E,) and turn (E, R, R)."""
    turned = torch.bmm(wigner, x_bar.index_select(0, centers))
    turn = torch.bmm(messages, turned.mT)
    envelope_bar = turn.diagonal(dim1=1, dim2=2).sum(1)
    return turned.mul_(envelope[:, None, None]), envelope_bar, turn.mul_(envelope[:, None, None])
