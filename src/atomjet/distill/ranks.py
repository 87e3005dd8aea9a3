"""The processes that train together: one, or those that `torchrun` started, each with its share of every batch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed

from atomjet.errors import BackendError


@dataclass(frozen=True)
class Ranks:
    """This process among all of them."""

    rank: int
    size: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this is the process that prints and writes."""
        return self.rank == 0

    def share(self, items: Any) -> Any:
        """This rank's part of a sequence: every size-th item."""
        return items[self.rank :: self.size]

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum over all ranks, in place."""
        if self.size > 1:
            distributed.all_reduce(tensor)
        return tensor

    def from_first(self, tensor: Tensor) -> Tensor:
        """What rank 0 holds, in place."""
        if self.size > 1:
            distributed.broadcast(tensor, 0)
        return tensor

    def wait(self) -> None:
        """Until all ranks are here."""
        if self.size > 1:
            distributed.barrier()


@contextmanager
def join(device: str | torch.device | None = None) -> Iterator[Ranks]:
    """Join the other processes where `torchrun` started this one (NCCL on GPUs, gloo on CPUs); else be alone.

    Args:
        device: None picks CUDA where there is one. Under `torchrun`, "cuda" means one GPU for each process of a host.
    """
    chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise BackendError("no CUDA device is visible; give --device cpu, or run `atomjet doctor`")
    if not distributed.is_torchelastic_launched():
        yield Ranks(0, 1, chosen)
        return
    local = distributed.get_node_local_rank(fallback_rank=0)
    if chosen.type == "cuda":
        if local >= torch.cuda.device_count():
            count = torch.cuda.device_count()
            raise BackendError(
                f"torchrun started more processes than the {count} GPUs here; use --nproc-per-node {count}"
            )
        chosen = torch.device("cuda", local)
        torch.cuda.set_device(chosen)
    distributed.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield Ranks(distributed.get_rank(), distributed.get_world_size(), chosen)
    finally:
        distributed.destroy_process_group()
