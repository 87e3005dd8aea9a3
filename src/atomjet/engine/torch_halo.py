"""`TorchHalo`: rows travel through torch.distributed (gloo on CPUs, NCCL on GPUs)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from atomjet.data.halo import ExchangeHalo
from atomjet.errors import BackendError, first_line


@contextmanager
def _together() -> Iterator[None]:
    """Say in our words that another process is gone, which PyTorch finds in the middle of a message.

    Raises:
        BackendError: a message did not arrive.
    """
    try:
        yield
    except RuntimeError as error:  # what gloo and NCCL raise
        said = (first_line(error).split(".cc:")[-1].partition("] ")[2] or first_line(error)).split(". ")[0]
        raise BackendError(
            f"a process that shares this structure is gone or does not answer ({said}); see what it said, and start "
            "all processes again"
        ) from None


class TorchTransport:
    """`Transport` over a process group.

    Args:
        group: of torch.distributed; None for all processes.

    Raises:
        BackendError: torch.distributed has not been initialised.
    """

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        if not dist.is_initialized():
            raise BackendError(
                "torch.distributed is not initialised; call torch.distributed.init_process_group() first, under torchrun"
            )
        self.group, self.rank, self.size = group, dist.get_rank(group), dist.get_world_size(group)

    def all_to_all(self, rows: Tensor, send: Sequence[int], receive: Sequence[int]) -> Tensor:
        """Send the first send[0] rows to process 0, the next send[1] to process 1, ...; return what they sent, in their order."""
        got = rows.new_empty(sum(receive), *rows.shape[1:])
        with _together():
            dist.all_to_all_single(got, rows.contiguous(), list(receive), list(send), group=self.group)
        return got

    def sum(self, values: Tensor) -> None:
        """Add up, in place, over all processes."""
        with _together():
            dist.all_reduce(values, group=self.group)

    def gather(self, value: Any) -> list[Any]:
        """Return the (small, picklable) value of every process."""
        found: list[Any] = [None] * self.size
        with _together():
            dist.all_gather_object(found, value, group=self.group)
        return found


class TorchHalo(ExchangeHalo):
    """A halo over torch.distributed; see `ExchangeHalo`."""

    def __init__(self, owned_ids: Tensor, ghost_ids: Tensor, group: dist.ProcessGroup | None = None) -> None:
        super().__init__(owned_ids, ghost_ids, TorchTransport(group))


def device_of(rank: int) -> torch.device:
    """The device of a process by its rank on this machine: its own GPU where there are any, else the CPU."""
    return torch.device("cuda", rank % torch.cuda.device_count()) if torch.cuda.is_available() else torch.device("cpu")
