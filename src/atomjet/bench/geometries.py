"""Structures of any size for benchmarks, made from a seed: saturated molecules, boxes of water, crystals."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from atomjet.data import System

WATERS_PER_A3 = 0.0334
CC, CH, CN, CO, NH, OH = 1.53, 1.09, 1.47, 1.43, 1.01, 0.96
TETRAHEDRAL = np.radians(109.47)


def molecule(atoms: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A saturated chain with random torsions: alkane, primary amine or alcohol, whichever has that many atoms (9 or more).

    Returns:
        numbers (N,), positions (N, 3) Å; no two atoms that are not bonded come nearer than 1.6 Å.
    """
    tail = ((6, CC), (7, CN), (8, CO))[{2: 0, 1: 1, 0: 2}[atoms % 3]]
    carbons = {2: (atoms - 2) // 3, 1: (atoms - 4) // 3, 0: (atoms - 3) // 3}[atoms % 3]
    chain = [6] * carbons + ([tail[0]] if atoms % 3 != 2 else [])
    generator = np.random.default_rng([seed, atoms])
    for _ in range(1000):
        made = _grow(chain, generator)
        if made is not None and len(made[0]) == atoms:
            return made
    raise AssertionError(f"no chain of {atoms} atoms was found")


def molecules(atoms: int, copies: int, seed: int = 0) -> System:
    """A batch of molecules of one size: up to 16 different ones, each copy turned and moved by 0.02 Å."""
    generator = np.random.default_rng([seed, atoms, copies])
    pool = [molecule(atoms, seed + k) for k in range(min(copies, 16))]
    numbers, positions = [], []
    for copy in range(copies):
        z, x = pool[copy % len(pool)]
        q, _ = np.linalg.qr(generator.normal(size=(3, 3)))
        numbers.append(z)
        positions.append(x @ q.T + generator.normal(0, 0.02, x.shape))
    return System(
        positions=torch.as_tensor(np.concatenate(positions)),
        atomic_numbers=torch.as_tensor(np.concatenate(numbers)),
        system_index=torch.arange(copies).repeat_interleave(atoms),
    )


def water(atoms: int, seed: int = 0, triclinic: bool = False, bonded: bool = False) -> System:
    """A periodic box of about that many atoms of water at its density, molecules on a grid.

    Args:
        atoms: about how many.
        seed: of what is drawn.
        triclinic: shear the box.
        bonded: molecules point with their hydrogens at the next oxygens, as in ice, so that dynamics can start from there; else
            their orientations are random, and some hydrogens nearer to each other than in any liquid.
    """
    side = max(2, round((atoms / 3) ** (1 / 3)))
    generator = np.random.default_rng([seed, side])
    spacing = WATERS_PER_A3 ** (-1 / 3)
    grid = np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), -1).reshape(-1, 3) * spacing
    oxygen = grid + generator.uniform(-0.15, 0.15, grid.shape)
    if bonded:
        first = _unit(np.array([1.0, 0.0, 0.0]) + generator.normal(scale=0.1, size=oxygen.shape))
        aside = np.array([0.0, 0.0, -1.0])
    else:
        first = _unit(generator.normal(size=oxygen.shape))
        aside = generator.normal(size=oxygen.shape)
    across = _unit(np.cross(first, aside))
    angle = np.radians(104.5)
    second = np.cos(angle) * first + np.sin(angle) * across
    positions = np.stack([oxygen, oxygen + OH * first, oxygen + OH * second], 1).reshape(-1, 3)
    cell = np.eye(3) * side * spacing
    if triclinic:
        shear = np.array([[1, 0, 0], [0.25, 1, 0], [0.15, -0.2, 1]])
        positions, cell = positions @ shear, cell @ shear
    return System(
        positions=torch.as_tensor(positions),
        atomic_numbers=torch.tensor([8, 1, 1]).repeat(len(oxygen)),
        cell=torch.as_tensor(cell),
        pbc=torch.tensor(True),
    )


def carbon_crystal(atoms: int, seed: int = 0) -> System:
    """A face-centred cubic crystal of carbon (a = 3.8 Å) in a rhombohedral box, sites left empty at random until that many
    atoms remain.
    """
    side = int(np.ceil(np.cbrt(atoms)))
    cell = 1.9 * np.array([[0.0, 1, 1], [1, 0, 1], [1, 1, 0]])
    grid = np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), -1).reshape(-1, 3)
    kept = np.random.default_rng([seed, side]).permutation(len(grid))[:atoms]
    return System(
        positions=torch.as_tensor(grid[np.sort(kept)] @ cell),
        atomic_numbers=torch.full((atoms,), 6),
        cell=torch.as_tensor(side * cell),
        pbc=torch.tensor(True),
    )


METALS = (13, 22, 23, 24, 25, 26, 27, 28, 29, 30, 12, 21, 31, 40, 41, 42, 44, 45, 46, 47)
"""Elements of alloys, in the order in which they are taken."""


def alloy(atoms: int, elements: int, seed: int = 0) -> System:
    """The sites of `carbon_crystal`, each with one of so many metals at random."""
    crystal = carbon_crystal(atoms, seed)
    drawn = np.random.default_rng([seed, atoms, elements]).choice(METALS[:elements], atoms)
    return replace(crystal, atomic_numbers=torch.as_tensor(drawn))


def unlike_molecules(count: int, seed: int = 0) -> System:
    """Molecules of 9 to 38 atoms, no two of the same composition: chains with nitrogen and oxygen for some carbons, fluorine for
    some hydrogens.
    """
    generator = np.random.default_rng([seed, count])
    found: dict[bytes, tuple[np.ndarray, np.ndarray]] = {}
    for number in range(20 * count):
        numbers, positions = molecule(9 + number % 30, seed + number % 7)
        numbers = numbers.copy()
        heavy = numbers > 1
        numbers[heavy & (generator.random(len(numbers)) < 0.3)] = generator.choice([7, 8])
        numbers[~heavy & (generator.random(len(numbers)) < 0.15)] = 9
        found.setdefault(np.bincount(numbers, minlength=10).tobytes(), (numbers, positions))
        if len(found) == count:
            break
    counts = [len(numbers) for numbers, _ in found.values()]
    return System(
        positions=torch.as_tensor(np.concatenate([positions for _, positions in found.values()])),
        atomic_numbers=torch.as_tensor(np.concatenate([numbers for numbers, _ in found.values()])),
        system_index=torch.arange(len(found)).repeat_interleave(torch.tensor(counts)),
    )


def _grow(chain: list[int], generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray] | None:
    """Heavy atoms by random torsions (anti twice as likely as gauche), then hydrogens; None where atoms would clash."""
    lengths = {6: CC, 7: CN, 8: CO}
    x = [np.zeros(3), np.array([CC, 0.0, 0.0])]
    for k in range(2, len(chain)):
        before = x[k - 3] if k > 2 else np.array([0.3, 1.0, 0.2])
        for _ in range(20):
            turn = np.radians(generator.choice([180, 180, 60, -60]) + generator.normal(0, 8))
            spot = _place(before, x[k - 2], x[k - 1], lengths[chain[k]], turn)
            # Four bonds and more apart: room for the hydrogens of both.
            if k < 4 or min(np.linalg.norm(spot - other) for other in x[: k - 3]) > 3.5:
                break
        else:
            return None
        x.append(spot)
    heavy = np.array(x)
    hydrogens = []
    for k, element in enumerate(chain):
        valence = {6: 4, 7: 3, 8: 2}[element]
        if 0 < k < len(chain) - 1:
            back, forth = _unit(heavy[k - 1] - heavy[k]), _unit(heavy[k + 1] - heavy[k])
            between, normal = -_unit(back + forth), _unit(np.cross(back, forth))
            for sign in (1, -1):
                hydrogens.append(heavy[k] + CH * _unit(between + sign * 1.4 * normal))
            continue
        inner, beyond = (1, 2) if k == 0 else (k - 1, k - 2)
        length = {6: CH, 7: NH, 8: OH}[element]
        for turn in (60, 180, 300)[: valence - 1]:
            hydrogens.append(_place(heavy[beyond], heavy[inner], heavy[k], length, np.radians(turn)))
    numbers = np.array(chain + [1] * len(hydrogens))
    positions = np.concatenate([heavy, np.array(hydrogens)])
    distance = np.linalg.norm(positions[:, None] - positions[None], axis=2) + 9 * np.eye(len(positions))
    # Hydrogens on one atom are 1.6 ... 1.8 Å apart; clashes of the rest show below that.
    bonded = distance < 1.2 * np.where((numbers[:, None] == 1) ^ (numbers[None] == 1), 1.0, 1.3)
    clash = (distance < 1.55) & ~bonded
    return None if clash.any() or distance.min() < 0.9 else (numbers, positions - positions.mean(0))


def _place(a: np.ndarray, b: np.ndarray, c: np.ndarray, length: float, turn: float) -> np.ndarray:
    """The atom bonded to c, at the tetrahedral angle to b, turned about b-c away from a."""
    axis = _unit(c - b)
    normal = _unit(np.cross(b - a, axis))
    across = np.cross(normal, axis)
    outward = np.sin(TETRAHEDRAL) * (np.cos(turn) * across + np.sin(turn) * normal)
    return c + length * (-np.cos(TETRAHEDRAL) * axis + outward)


def _unit(v: np.ndarray) -> np.ndarray:
    return v / np.linalg.norm(v, axis=-1, keepdims=True)
