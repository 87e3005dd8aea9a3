"""Whether Triton kernels run on a device: a GPU that is new enough, or Triton's interpreter."""

from __future__ import annotations

import torch
from triton.runtime.interpreter import InterpretedFunction

from atomjet.errors import BackendError


def check_kernel_device(device: torch.device, kernel: object, oldest: tuple[int, int]) -> None:
    """Say why kernels do not run.

    Args:
        device: of the weights.
        kernel: one of them, by which an interpreter shows.
        oldest: compute capability of the oldest GPU that they are written for.

    Raises:
        BackendError: an older GPU, or none.
    """
    if device.type == "cuda":
        found = torch.cuda.get_device_capability(device)
        if found < oldest:
            raise BackendError(
                f"backend 'fast_gpu' needs a GPU of compute capability {oldest[0]}.{oldest[1]} or higher, this one has "
                f"{found[0]}.{found[1]}; use 'fast_pytorch'"
            )
    elif not isinstance(kernel, InterpretedFunction):
        raise BackendError(f"backend 'fast_gpu' needs a CUDA device, not {str(device)!r}; use 'fast_pytorch'")
