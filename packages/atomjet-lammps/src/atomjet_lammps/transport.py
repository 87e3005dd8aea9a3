"""`MpiTransport`: rows travel through MPI; those on a GPU by way of the host, as not every MPI reads device memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mpi4py import MPI
from torch import Tensor


class MpiTransport:
    """`atomjet.data.Transport` over a communicator."""

    def __init__(self, comm: MPI.Intracomm) -> None:
        self.comm, self.rank, self.size = comm, comm.rank, comm.size

    def all_to_all(self, rows: Tensor, send: Sequence[int], receive: Sequence[int]) -> Tensor:
        """Send the first send[0] rows to process 0, the next send[1] to process 1, ...; return what they sent, in their order."""
        width = int(np.prod(rows.shape[1:]))
        out = np.ascontiguousarray(rows.detach().cpu().numpy())
        got = np.empty((sum(receive), *rows.shape[1:]), out.dtype)
        datatype = MPI._typedict[out.dtype.char]
        counts = ([number * width for number in send], [number * width for number in receive])
        self.comm.Alltoallv([out, counts[0], datatype], [got, counts[1], datatype])
        return torch.from_numpy(got).to(rows.device)

    def sum(self, values: Tensor) -> None:
        """Add up, in place, over all processes."""
        total = values.detach().cpu().numpy().copy()
        self.comm.Allreduce(MPI.IN_PLACE, total)
        values.copy_(torch.from_numpy(total))

    def gather(self, value: Any) -> list[Any]:
        """Return the (small, picklable) value of every process."""
        return self.comm.allgather(value)
