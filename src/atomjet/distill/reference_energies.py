"""Reference energies: one energy for each element, fitted before training, so that the network sees differences of a few eV."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from atomjet.distill.batches import SEARCH_FRAMES, to_system
from atomjet.distill.frames import Frames
from atomjet.errors import ConfigError
from atomjet.models.painn import PaiNN
from atomjet.neighbors.brute_force import brute_force

SMALL_FRAME_WEIGHT = 1e-3
"""Weight, in the fit, of frames with one or two atoms."""


def fit_reference_energies(frames: Frames, max_z: int) -> NDArray[np.float64]:
    """Least squares in float64: energies ê_Z that minimise Σ_f w_f² (E_f - Σ_(i in f) ê_Z(i))² with w_f = 1 / atoms in f.

    Free atoms lie several eV above the same element in a molecule, and pairs of atoms on a repulsive wall hundreds: in a plain fit
    they would pull the references away from where nearly all frames are. Left out altogether, they could not help where molecules
    leave the fit undetermined (all frames are one compound). So frames of one or two atoms enter with a weight of 1e-3: they
    decide what nothing else decides, and nothing else. In training they are frames like any other: an atom without neighbours
    has a learned energy too.

    Args:
        frames: labelled frames of the training split.
        max_z: length of the result, more than the largest atomic number.

    Returns:
        (max_z,) eV by atomic number; zero for elements that do not occur.
    """
    elements = elements_of(frames, max_z)
    frame_of_atom = np.repeat(np.arange(len(frames)), frames.counts)
    counts = np.zeros((len(frames), len(elements)))
    np.add.at(counts, (frame_of_atom, np.searchsorted(elements, frames.numbers)), 1.0)
    weights = np.where(frames.counts > 2, 1.0, SMALL_FRAME_WEIGHT) / frames.counts
    fitted = np.linalg.lstsq(counts * weights[:, None], frames.energy * weights, rcond=None)[0]
    reference = np.zeros(max_z)
    reference[elements] = fitted
    return reference


def without_repulsion(frames: Frames, model: PaiNN) -> Frames:
    """Frames whose energies lack what the model has of its own, the repulsion of nuclei; searched on the model's device.

    References fitted to these leave to the network what it is to learn.
    """
    if model.zbl is None:
        return frames
    elements_of(frames, model.config.max_z)
    device, energies = model.zbl.table.device, frames.energy.copy()
    for chunk in np.array_split(np.arange(len(frames)), max(1, len(frames) // SEARCH_FRAMES)):
        graph = brute_force(to_system(frames.select(chunk), device), model.zbl.reach(model.elements))
        repelled = model.zbl.atomic_energies(graph, graph.lengths)
        of_frame = repelled.new_zeros(len(chunk)).index_add(0, graph.system_index, repelled)
        energies[chunk] -= of_frame.double().cpu().numpy()
    return replace(frames, energy=energies)


def elements_of(frames: Frames, max_z: int) -> NDArray[np.int64]:
    """Atomic numbers that occur, ascending.

    Raises:
        ConfigError: one is too large for a student with embeddings below `max_z`.
    """
    elements = np.unique(frames.numbers)
    if len(elements) and int(elements[-1]) >= max_z:
        raise ConfigError(f"element {int(elements[-1])} exceeds the student's max_z = {max_z}; raise student.max_z")
    return elements
