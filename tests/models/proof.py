"""Measures what docs/concepts/analytic_forces.md states, and writes it there:  python -m tests.models.proof

Errors of the hand-written derivative against autograd and against finite differences, float64; bytes that each way keeps between
its forward and backward pass, float32.
"""

from pathlib import Path

import numpy as np
import torch
from ase.build import molecule

from atomjet import Engine, Graph, System
from atomjet.engine import Settings
from atomjet.models.base import General
from atomjet.models.painn import PaiNN, PaiNNConfig, fast_pytorch
from atomjet.neighbors import search
from tests.models.test_cost import water
from tests.potentials import random_painn

DOCUMENT = Path(__file__).parents[2] / "docs/concepts/analytic_forces.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"


def examples():
    """Name, structure: a small and a middle-sized molecule, two molecules in one batch, water with periodic images."""
    frames = {"ethanol": molecule("CH3CH2OH"), "benzene + methane": [molecule("C6H6"), molecule("CH4")]}
    frames["water, 192 atoms, periodic"] = water(64)
    for seed, atoms in enumerate(frames.values()):
        for one in atoms if isinstance(atoms, list) else [atoms]:
            one.rattle(0.05, seed=seed)
    return frames


def errors() -> list[tuple[str, int, int, float, float, float]]:
    """Per example: atoms, edges, largest relative error of energies, of derivatives, and of forces along random directions."""
    model = random_painn(features=128)
    engine = Engine(model, Settings("cpu", "fast_pytorch", "float64"))
    rows = []
    for name, frames in examples().items():
        system = System.from_ase(frames)
        graph = search(system, model.cutoff)
        energies, gradients = engine.evaluator.energies_and_gradients(graph)
        true_energies, true_gradients = General(engine.model).energies_and_gradients(graph)
        slope = _difference(engine, system)
        rows.append(
            (
                name,
                graph.num_atoms,
                graph.num_edges,
                _relative(energies, true_energies),
                _relative(gradients, true_gradients),
                slope,
            )
        )
    return rows


def kept_bytes() -> dict[str, tuple[float, float]]:
    """(bytes per atom, bytes per edge) kept between the passes, float32, the standard PaiNN, from two boxes of water."""
    graphs = []
    for count in (64, 216):
        graph = search(System.from_ase(water(count)), 5.0)
        graphs.append(graph.with_vectors(graph.vectors.float()))
    model = PaiNN(PaiNNConfig())
    sizes = np.array([[g.num_atoms, g.num_edges] for g in graphs], float)
    found = {}
    for name, measure in (("general (autograd)", _saved_by_autograd), ("fast_pytorch", _saved_by_hand)):
        per_atom, per_edge = np.linalg.solve(sizes, [measure(model, g) for g in graphs])
        found[name] = (float(per_atom), float(per_edge))
    return found


def table() -> str:
    """Both tables in markdown."""
    lines = [
        "| structure | atoms | edges | energies | dE/dr of every edge | force against finite differences |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, atoms, edges, energy, gradient, slope in errors():
        lines.append(f"| {name} | {atoms} | {edges} | {energy:.1e} | {gradient:.1e} | {slope:.1e} |")
    lines += ["", "| way | bytes kept per atom | bytes kept per edge |", "| --- | --- | --- |"]
    for name, (per_atom, per_edge) in kept_bytes().items():
        lines.append(f"| {name} | {per_atom:,.0f} | {per_edge:,.0f} |")
    return "\n".join(lines)


def _saved_by_autograd(model: PaiNN, graph: Graph) -> int:
    seen: dict[int, int] = {}
    weights = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    graph = graph.with_vectors(graph.vectors.clone().requires_grad_(True))
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        energies = model.requires_grad_(False).atomic_energies(
            graph
        )  # the graph stays alive, so storages stay distinct
    assert energies.requires_grad
    return sum(seen.values())


def _saved_by_hand(model: PaiNN, graph: Graph) -> int:
    kept: list[object] = []

    class Watched(fast_pytorch.FastPyTorch):
        def _backward(self, graph, edges, layers, q_bar):
            kept.extend([*edges[:4], q_bar, *(tensor for layer in layers for tensor in layer)])
            return super()._backward(graph, edges, layers, q_bar)

    Watched(model).energies_and_gradients(graph)
    storages = {
        t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in kept if isinstance(t, torch.Tensor)
    }
    return sum(storages.values())


def _relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


def _difference(engine: Engine, system: System, h: float = 3e-4) -> float:
    """Largest relative error of the slope of the energy along 8 random directions, by extrapolated central differences."""
    forces = engine.predict(system).forces
    generator = torch.Generator().manual_seed(0)
    worst = 0.0
    for _ in range(8):
        direction = torch.randn(forces.shape, generator=generator, dtype=torch.float64)
        moved = [
            engine.predict(system.with_positions(system.positions + s * h * direction)) for s in (1, -1, 0.5, -0.5)
        ]
        wide, narrow = (float((moved[k].energy - moved[k + 1].energy).sum()) / (2 * h) for k in (0, 2))
        slope = (4 * 2 * narrow - wide) / 3
        expected = -float((forces * direction).sum())
        worst = max(worst, abs(slope - expected) / float(forces.norm() * direction.norm()))
    return worst


if __name__ == "__main__":
    text = DOCUMENT.read_text()
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    DOCUMENT.write_text(f"{before}{BEGIN}\n\n{table()}\n\n{END}{after}")
