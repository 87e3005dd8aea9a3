"""How wrong a model is on labelled frames, group by group."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray

from atomjet.distill.batches import FrameStore
from atomjet.distill.dataset import Frames
from atomjet.distill.loss import energies_and_forces
from atomjet.distill.ranks import Ranks
from atomjet.models.painn import PaiNN
from atomjet.units import MEV

Array = NDArray[np.float64]
Errors = dict[str, float]

SMALLEST_FORCE = 1e-3
"""eV/Å: shorter forces have no direction worth comparing."""


def evaluate(model: PaiNN, frames: Frames, ranks: Ranks | None = None) -> dict[str, Errors]:
    """Errors of each group of `groups`, in float32 without shortened mantissas.

    Args:
        model: with its reference energies, on the device of `ranks`.
        frames: labelled.
        ranks: default: one process, on the device where the model is.

    Returns:
        group -> {"frames", "atoms", "energy_mae_meV_atom", "energy_rmse_meV_atom", "force_mae_meV_A", "force_rmse_meV_A"
        (over components), "force_cosine" (mean over atoms of cos(F, F̂)), "force_mae_over_zero" (relative to the error of
        predicting zero); the last two are absent where all forces vanish}; energies are totals divided by the number of atoms.
    """
    device = next(model.parameters()).device
    store = FrameStore(frames, model.reference_energies.cpu().numpy(), model.cutoff, device)
    energy, forces = predict(model, store, ranks or Ranks(0, 1, device))
    return {name: errors(store, energy, forces, chosen) for name, chosen in groups(frames).items()}


def groups(frames: Frames) -> dict[str, NDArray[np.bool_]]:
    """Masks (F,) of the groups that have any frame; those of one source hold frames outside the training split only."""
    heldout = (frames.split == "test") & ~frames.large
    masks = {
        "training molecules, held-out frames": frames.split == "in_distribution",
        "validation molecules": frames.split == "validation",
        "held-out molecules": heldout,
        "held-out larger molecules": frames.large & (frames.split != "train"),
        "held-out molecules, broken bonds": heldout & frames.reactive,
    }
    for source in np.unique(frames.source[heldout]):
        masks[f"held-out molecules, {source}"] = heldout & (frames.source == source)
    return {name: mask for name, mask in masks.items() if mask.any()}


def predict(model: PaiNN, store: FrameStore, ranks: Ranks) -> tuple[Array, Array]:
    """Energies (F,) less the reference energies, eV, and forces (A, 3), eV/Å; each rank computes its share."""
    energy, forces = torch.zeros_like(store.energy), torch.zeros_like(store.forces)
    with matrix_products("highest"):
        for indices in ranks.share(list(store.in_order())):
            batch = store.batch(indices)
            e, f, _ = energies_and_forces(model, batch.graph, differentiable=False)
            # Frames in order: their atoms are one run.
            atoms = slice(int(store.frames.ptr[indices[0]]), int(store.frames.ptr[indices[-1] + 1]))
            energy[indices[0] : indices[-1] + 1] = e.detach()
            forces[atoms] = f.detach()
    return ranks.sum(energy).double().cpu().numpy(), ranks.sum(forces).double().cpu().numpy()


def errors(store: FrameStore, energy: Array, forces: Array, chosen: NDArray[np.bool_]) -> Errors:
    """The figures of `evaluate` for the chosen frames."""
    atoms = np.repeat(chosen, store.sizes)
    de = (energy - store.energy.double().cpu().numpy())[chosen] / store.sizes[chosen] / MEV
    true, found = store.frames.forces[atoms].astype(float), forces[atoms]
    df = (found - true) / MEV
    found_errors = {
        "frames": int(chosen.sum()),
        "atoms": int(atoms.sum()),
        "energy_mae_meV_atom": float(np.abs(de).mean()),
        "energy_rmse_meV_atom": float(np.sqrt((de**2).mean())),
        "force_mae_meV_A": float(np.abs(df).mean()),
        "force_rmse_meV_A": float(np.sqrt((df**2).mean())),
    }
    lengths = np.linalg.norm(true, axis=1)
    clear = lengths > SMALLEST_FORCE
    if clear.any():
        overlap = (true * found).sum(1)[clear] / (lengths * np.linalg.norm(found, axis=1).clip(min=1e-12))[clear]
        found_errors["force_cosine"] = float(overlap.mean())
        found_errors["force_mae_over_zero"] = float(np.abs(df).mean() * MEV / np.abs(true).mean())
    return found_errors


def hardest_molecules(
    store: FrameStore, energy: Array, forces: Array, chosen: NDArray[np.bool_], number: int = 8
) -> dict[str, Errors]:
    """The single molecules among the chosen frames with the largest force errors, worst first: what the averages hide."""
    keys = store.frames.molecule
    names = [str(key) for key in np.unique(keys[chosen]) if "." not in str(key)]
    found = {name: errors(store, energy, forces, chosen & (keys == name)) for name in names}
    worst = sorted(found, key=lambda name: -found[name]["force_mae_meV_A"])
    return {name: found[name] for name in worst[:number]}


@contextmanager
def matrix_products(precision: str) -> Iterator[None]:
    """Float32 matrix products with PyTorch's "highest" (full) or "high" (TF32 on GPUs) precision, for a while."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
