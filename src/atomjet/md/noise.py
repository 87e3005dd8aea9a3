"""Noise that is a function of seed, step and atom: nothing has to be remembered for a run to go on exactly.

Philox4x32-10 (Salmon, Moraes, Dror, Shaw, SC11): key (64 bits) the seed of the replica; counter (atom within the replica, low
and high half of the step, 0). Its four words w give three normal numbers by Box and Muller:

    n_0 = √(-2 ln u_0) cos 2π u_1,  n_1 = √(-2 ln u_0) sin 2π u_1,  n_2 = √(-2 ln u_2) cos 2π u_3,   u = (w + ½) / 2³²

The definition, in plain PyTorch; `kernels.py` draws the same.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

ROUNDS = 10
KEYS = (0x9E3779B9, 0xBB67AE85)
FACTORS = (0xD2511F53, 0xCD9E8D57)
WORD = 0xFFFFFFFF


def replica_seeds(seed: int, replicas: int) -> Tensor:
    """(R,) int64: an independent key for each replica of a run."""
    keys = [np.random.SeedSequence([seed, replica]).generate_state(1, np.uint64)[0] for replica in range(replicas)]
    return torch.from_numpy(np.array(keys, dtype=np.uint64).view(np.int64))


def philox(seed: Tensor, counter: tuple[Tensor, Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(N,) int64 keys and four words of counter, each in 0 ... 2³² - 1, to four random words."""
    c0, c1, c2, c3 = counter
    k0, k1 = seed & WORD, (seed >> 32) & WORD
    for _ in range(ROUNDS):
        high0, low0 = _multiply(FACTORS[0], c0)
        high1, low1 = _multiply(FACTORS[1], c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + KEYS[0]) & WORD, (k1 + KEYS[1]) & WORD
    return c0, c1, c2, c3


def normals(seed: Tensor, step: Tensor, atom: Tensor) -> Tensor:
    """(N, 3) float64 of variance one, for (N,) int64 seeds, steps, and atoms counted within their replica."""
    words = philox(seed, (atom & WORD, step & WORD, (step >> 32) & WORD, torch.zeros_like(atom)))
    u = [(word.double() + 0.5) * 2.0**-32 for word in words]
    first, last = torch.sqrt(-2.0 * torch.log(u[0])), torch.sqrt(-2.0 * torch.log(u[2]))
    angle, other = 2.0 * math.pi * u[1], 2.0 * math.pi * u[3]
    return torch.stack([first * torch.cos(angle), first * torch.sin(angle), last * torch.cos(other)], dim=1)


def _multiply(a: int, b: Tensor) -> tuple[Tensor, Tensor]:
    """High and low word of a product of two words, within the 63 bits that PyTorch's integers have."""
    low = a * (b & 0xFFFF)
    high = a * (b >> 16) + (low >> 16)
    return high >> 16, ((high & 0xFFFF) << 16) | (low & 0xFFFF)
