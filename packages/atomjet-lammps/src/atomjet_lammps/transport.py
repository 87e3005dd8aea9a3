"""`MpiTransport`: rows travel through MPI; those on a GPU by way of the host, as not every MPI reads device memory."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
import torch
from mpi4py import MPI
from torch import Tensor

GRACE = 3.0
"""Seconds that a rank leaves to another one to say what is wrong, before it says so itself."""

REPEATED = re.compile(r"(step \d+, )?(rank \d+: )?(process|rank) \d+ refused: ")
"""Beginning of what a rank says that only repeats another one."""


def end(comm: MPI.Intracomm, text: str, status: int, at_once: bool = False) -> NoReturn:
    """Say why, once, and end every rank; a single one in the ordinary way unless `at_once`, where nothing would catch the exit.

    The first rank speaks at once: what it says too, the others need not. A rank that only repeats another one gives it time:
    whoever ends first ends all, and words that were not yet written are lost.
    """
    repeats = REPEATED.match(text)
    if comm.size > 1 and (comm.rank or repeats):
        time.sleep(2 * GRACE if repeats else GRACE)
    print(f"error: {text}", file=sys.stderr, flush=True)
    if comm.size > 1 or at_once:
        sys.stdout.flush()
        comm.Abort(status)
        os._exit(status)  # some MPI return from it, and end the rank a little later
    sys.exit(status)


class MpiTransport:
    """`atomjet.data.Transport` over a communicator."""

    def __init__(self, comm: MPI.Intracomm) -> None:
        self.comm, self.rank, self.size = comm, comm.rank, comm.size

    def all_to_all(self, rows: Tensor, send: Sequence[int], receive: Sequence[int]) -> Tensor:
        """Send the first send[0] rows to process 0, the next send[1] to process 1, ...; return what they sent, in their order."""
        shape = rows.shape[1:]
        # In words of a type that MPI knows: half precision is none.
        narrow = rows.dtype if rows.element_size() == 2 else None
        out = rows.detach().cpu().contiguous()
        out = (out if narrow is None else out.view(torch.int16)).numpy()
        got = np.empty((sum(receive), *shape), out.dtype)
        datatype, width = MPI._typedict[out.dtype.char], int(np.prod(shape))
        counts = ([number * width for number in send], [number * width for number in receive])
        self.comm.Alltoallv([out, counts[0], datatype], [got, counts[1], datatype])
        found = torch.from_numpy(got)
        return (found if narrow is None else found.view(narrow)).to(rows.device)

    def sum(self, values: Tensor) -> None:
        """Add up, in place, over all processes."""
        total = values.detach().cpu().numpy().copy()
        self.comm.Allreduce(MPI.IN_PLACE, total)
        values.copy_(torch.from_numpy(total))

    def gather(self, value: Any) -> list[Any]:
        """Return the (small, picklable) value of every process."""
        return self.comm.allgather(value)
