"""How wrong a model is on labelled frames, group by group."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from atomjet.data.elements import SYMBOLS
from atomjet.distill.batches import FrameStore
from atomjet.distill.frames import Frames
from atomjet.distill.loss import derivatives, pairwise_to_atoms, virials
from atomjet.distill.ranks import Ranks
from atomjet.models.painn import PaiNN
from atomjet.ops.matrix_products import matrix_products
from atomjet.progress import track
from atomjet.units import MEV

Array = NDArray[np.float64]
Errors = dict[str, float]

FORCES = (0.0, 0.5, 1.0, 2.0, 4.0, np.inf)
SIZES = (0, 15, 25, 35, np.inf)
"""Bounds of the groups by size of the teacher's force, eV/Å, and by number of atoms."""

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
        predicting zero); the last two are absent where all forces vanish; where there are stress labels "stress_mae_meV_A3" (over
        components) and "stress_mae_over_zero"}; energies are totals divided by the number of atoms.
    """
    device = next(model.parameters()).device
    store = FrameStore(frames, model.reference_energies.cpu().numpy(), model.cutoff, device)
    predicted = predict(model, store, ranks or Ranks(0, 1, device))
    return {name: errors(store, predicted, chosen) for name, chosen in groups(frames).items()}


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


@dataclass(frozen=True, eq=False)
class Predicted:
    """What a model says of all frames of a store: energies (F,) less the reference energies, eV; forces (A, 3), eV/Å; virials
    (F, 3, 3), the volume times the stress, eV.
    """

    energy: Array
    forces: Array
    virial: Array


def predict(model: PaiNN, store: FrameStore, ranks: Ranks, progress: str = "") -> Predicted:
    """Compute all frames; each rank its share. `progress` is the title of a progress bar of the first rank, "" for none."""
    energy, forces, virial = (torch.zeros_like(x) for x in (store.energy, store.forces, store.virial))
    own = ranks.share(list(store.in_order()))
    hidden = not (progress and ranks.first)
    with matrix_products("highest"), track(progress, sum(map(len, own)), quiet=hidden) as advance:
        for indices in own:
            graph = store.batch(indices).graph
            e, gradients, vectors = derivatives(model, graph, differentiable=False)
            # Frames in order: their atoms are one run.
            frames = slice(int(indices[0]), int(indices[-1]) + 1)
            atoms = slice(int(store.frames.ptr[frames.start]), int(store.frames.ptr[frames.stop]))
            energy[frames] = e.detach()
            forces[atoms] = pairwise_to_atoms(graph, gradients).detach()
            virial[frames] = virials(graph, gradients, vectors).detach()
            advance(len(indices))
    return Predicted(*(ranks.sum(x).double().cpu().numpy() for x in (energy, forces, virial)))


def errors(store: FrameStore, predicted: Predicted, chosen: NDArray[np.bool_]) -> Errors:
    """The figures of `evaluate` for the chosen frames."""
    atoms = np.repeat(chosen, store.sizes)
    de = (predicted.energy - store.energy.double().cpu().numpy())[chosen] / store.sizes[chosen] / MEV
    true, found = store.frames.forces[atoms].astype(float), predicted.forces[atoms]
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
    return found_errors | _stress_errors(store, predicted, chosen & store.stressed)


def _stress_errors(store: FrameStore, predicted: Predicted, chosen: NDArray[np.bool_]) -> Errors:
    """Errors of the stress on the chosen frames, which have one; none without frames."""
    if not chosen.any():
        return {}
    true = store.frames.stress[chosen]
    found = predicted.virial[chosen] / np.abs(np.linalg.det(store.frames.cell[chosen]))[:, None, None]
    mae, zero = float(np.abs(found - true).mean()), float(np.abs(true).mean())
    return {"stress_mae_meV_A3": mae / MEV, **({"stress_mae_over_zero": mae / zero} if zero else {})}


def hardest_molecules(
    store: FrameStore, predicted: Predicted, chosen: NDArray[np.bool_], number: int = 8
) -> dict[str, Errors]:
    """The single molecules among the chosen frames with the largest force errors, worst first: what the averages hide."""
    keys = store.frames.molecule
    names = [str(key) for key in np.unique(keys[chosen]) if "." not in str(key)]
    found = {name: errors(store, predicted, chosen & (keys == name)) for name in names}
    worst = sorted(found, key=lambda name: -found[name]["force_mae_meV_A"])
    return {name: found[name] for name in worst[:number]}


def force_mae_by_cause(
    forces: Array, predicted: Array, numbers: NDArray[np.integer], counts: NDArray[np.integer]
) -> dict[str, float]:
    """Force MAE, meV/Å, by element, by size of the teacher's force, and by size of the molecule; groups without atoms are left out.

    Args:
        forces, predicted: (A, 3) eV/Å. numbers: (A,). counts: (F,) atoms of each frame.
    """
    error = np.abs(predicted - forces).mean(1) / MEV
    strength, sizes = np.linalg.norm(forces, axis=1), np.repeat(counts, counts)
    masks = {f"element {SYMBOLS[z]}": numbers == z for z in np.unique(numbers)}
    for low, high in pairwise(FORCES):
        name = f"force {low:g} to {high:g} eV/Å" if np.isfinite(high) else f"force above {low:g} eV/Å"
        masks[name] = (strength >= low) & (strength < high)
    for low, high in pairwise(SIZES):
        name = f"size {low + 1} to {high} atoms" if np.isfinite(high) else f"size above {low} atoms"
        masks[name] = (sizes > low) & (sizes <= high)
    return {name: float(error[mask].mean()) for name, mask in masks.items() if mask.any()}


def causes(store: FrameStore, predicted: Predicted) -> dict[str, float]:
    """`force_mae_by_cause` of the frames of unseen molecules; of all held-out frames where there are none."""
    frames = store.frames
    unseen = (frames.split != "in_distribution") & ~frames.large
    chosen = unseen if unseen.any() else np.ones(len(frames), dtype=bool)
    atoms = np.repeat(chosen, store.sizes)
    return force_mae_by_cause(
        frames.forces[atoms].astype(float), predicted.forces[atoms], frames.numbers[atoms], store.sizes[chosen]
    )
