"""PyTorch's global modes, as a caller has set them for code of its own, do not reach AtomJet's."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack, nullcontext

import torch

NOTHING_SET = nullcontext()


def undisturbed(device: torch.device) -> AbstractContextManager[object]:
    """Leave, for a while, inference mode (in which nothing is differentiated), autocast (which rounds products to half precision)
    and a default device other than the CPU.
    """
    inference, autocast = torch.is_inference_mode_enabled(), torch.is_autocast_enabled(device.type)
    elsewhere = torch.get_default_device().type != "cpu"
    if not (inference or autocast or elsewhere):
        return NOTHING_SET
    stack = ExitStack()
    if inference:
        stack.enter_context(torch.inference_mode(False))
    if autocast:
        stack.enter_context(torch.autocast(device.type, enabled=False))
    if elsewhere:
        stack.enter_context(torch.device("cpu"))
    return stack
