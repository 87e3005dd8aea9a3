"""Radial basis times cutoff, with its slope, as a filter wants it: the cutoff is one more basis function, which carries the bias.

    ĝ = [φ_0 f, ..., φ_(K-1) f, f, 0 ...],   f = ½ (cos(π d / r_c) + 1) inside the cutoff

K̂ numbers, a power of two; what stands beyond f meets weights of zero. φ: Gaussians exp(b_k (d - a_k)²), with b = 0 for f itself, or
Bessel functions sin(a_k d) / d.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor


class Radial(NamedTuple):
    """A basis on the device: `basis` (3, K̂) float32 holds a, b, and 1 where φ is in use, else 0."""

    basis: Tensor
    cutoff: float
    taps: int
    gaussian: bool


def gaussian(offsets: Tensor, widths: Tensor, cutoff: float) -> Radial:
    """φ_k = exp(-(d - o_k)² / (2 w_k²))."""
    return _padded(offsets, -0.5 / widths.double() ** 2, cutoff, True)


def bessel(frequencies: Tensor, cutoff: float) -> Radial:
    """φ_k = sin(f_k d) / d."""
    return _padded(frequencies, torch.zeros_like(frequencies), cutoff, False)


def _padded(a: Tensor, b: Tensor, cutoff: float, is_gaussian: bool) -> Radial:
    taps = max(16, triton.next_power_of_2(len(a) + 1))
    basis = torch.zeros(3, taps, dtype=torch.float32, device=a.device)
    basis[0, : len(a)], basis[1, : len(a)], basis[2, : len(a)] = a, b, 1.0
    return Radial(basis, float(cutoff), taps, is_gaussian)


@triton.jit
def _cutoff(d, inside, cutoff):
    angle = d * (3.141592653589793 / cutoff)
    within = inside & (d < cutoff)
    return tl.where(within, 0.5 * (tl.cos(angle) + 1.0), 0.0), within, angle


@triton.jit
def basis_values(d, inside, basis, cutoff, K: tl.constexpr, GAUSSIAN: tl.constexpr):
    """(E,) to ĝ (E, K̂); zero where not `inside`."""
    f, _, _ = _cutoff(d, inside, cutoff)
    tap = tl.arange(0, K)
    a = tl.load(basis + tap)[None, :]
    if GAUSSIAN:
        off = d[:, None] - a
        phi = tl.exp(tl.load(basis + K + tap)[None, :] * off * off)
    else:
        used = tl.load(basis + 2 * K + tap)[None, :]
        phi = tl.where(used > 0, tl.sin(a * d[:, None]) / d[:, None], 1.0)
    return phi * f[:, None]


@triton.jit
def basis_and_slope(d, inside, basis, cutoff, K: tl.constexpr, GAUSSIAN: tl.constexpr):
    """(E,) to ĝ and dĝ/dd (E, K̂); zero where not `inside`."""
    f, within, angle = _cutoff(d, inside, cutoff)
    f_slope = tl.where(within, -0.5 * (3.141592653589793 / cutoff) * tl.sin(angle), 0.0)
    tap = tl.arange(0, K)
    a = tl.load(basis + tap)[None, :]
    if GAUSSIAN:
        b = tl.load(basis + K + tap)[None, :]
        off = d[:, None] - a
        phi = tl.exp(b * off * off)
        phi_slope = 2.0 * b * off * phi
    else:
        used = tl.load(basis + 2 * K + tap)[None, :] > 0
        argument = a * d[:, None]
        phi = tl.where(used, tl.sin(argument) / d[:, None], 1.0)
        phi_slope = tl.where(used, (a * tl.cos(argument) - phi) / d[:, None], 0.0)
    return phi * f[:, None], phi_slope * f[:, None] + phi * f_slope[:, None]
