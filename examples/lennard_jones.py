"""A model family of one's own: Lennard-Jones, as a definition and as a backend that runs in buffers of fixed size.

    e(d) = 4 ε ((σ/d)¹² - (σ/d)⁶) (1 - (d/r_c)²)³      half of it for each of the two atoms

Run it: `python examples/lennard_jones.py`. What a family must give is on one page: `atomjet/models/contract.py`.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from ase.build import bulk
from ase.optimize import BFGS
from pydantic import BaseModel
from torch import Tensor, nn

import atomjet
from atomjet.data import Capacity, ConditionBuffers, Conditions, Graph, GraphBuffers, System
from atomjet.models import tensor_file
from atomjet.models.base import General, NeutralSinglets
from atomjet.models.contract import Atomic, Segment
from atomjet.models.families import FAMILIES, BackendChoice, Family
from atomjet.ops.segment_sum import segment_sum


class LennardJonesConfig(BaseModel):
    """What a model file says of a model; ε and σ are weights."""

    elements: tuple[int, ...] = (1, 6, 7, 8)
    cutoff: float = 4.0


class LennardJones(NeutralSinglets, nn.Module):
    """The definition: atomic energies that autograd can differentiate with respect to the edge vectors."""

    family, exchanges = "lennard_jones", None
    reference_energies: Tensor

    def __init__(self, config: LennardJonesConfig) -> None:
        super().__init__()
        self.config, self.cutoff, self.elements = config, config.cutoff, config.elements
        self.epsilon, self.sigma = nn.Parameter(torch.tensor(0.01)), nn.Parameter(torch.tensor(2.2))
        self.register_buffer("reference_energies", torch.zeros(119, dtype=torch.float64))

    def pair(self, squares: Tensor) -> Tensor:
        """(E,) Å² to (E,) eV, half of what a pair has."""
        u, x = squares / self.cutoff**2, (self.sigma**2 / squares) ** 3
        return 2 * self.epsilon * (x * x - x) * (1 - u) ** 3

    def atomic_energies(self, graph: Graph) -> Tensor:
        """(N,) eV."""
        return segment_sum(self.pair(graph.vectors.square().sum(1)), graph.row_ptr, graph.centers)

    def references(self, graph: Graph) -> Tensor:
        """(N,) eV, added to what the model has learned."""
        return self.reference_energies[graph.atomic_numbers]

    def bytes_by_autograd(self, graph: Graph) -> int:
        """At most."""
        return 200 * graph.num_edges + 16 * graph.num_atoms


class InBuffers(General):
    """`CapturedBackend` in plain PyTorch: nothing waits for the device or depends on sizes, so that a CUDA graph can hold it."""

    tuning, silent_conditions, storage_dtype = None, (0, 0, 0, 0), torch.float64

    def __init__(self, model: LennardJones, precision: str) -> None:
        super().__init__(model, precision)
        self.precision = precision

    def admit(self, system: System, task: str | None) -> Conditions:
        """Refuse what the model does not know; nothing needs to be prepared."""
        return Conditions.of(self.model.complete(system, task))

    def bytes_of(self, capacity: Capacity) -> int:
        """What `workspace` allocates."""
        return 8 * capacity.atoms + 32 * capacity.edges

    def workspace(self, capacity: Capacity) -> Atomic:
        """Energies and gradients."""
        where = {"dtype": torch.float64, "device": self.model.epsilon.device}
        return Atomic(
            torch.zeros(capacity.atoms, **where), torch.zeros(1, capacity.edges, 4, **where), of_reverse=False
        )

    def segments(self, graph: GraphBuffers, conditions: ConditionBuffers, workspace: Atomic) -> list[Segment]:
        """Pairs, and their sums by row; edges beyond those in use stand at the cutoff, where everything is zero."""
        model, places = self.model, torch.arange(graph.capacity.edges, device=graph.vectors.device)

        def launch() -> None:
            used = (places < graph.row_ptr[-1])[:, None]
            vectors = torch.where(used, graph.vectors.double(), model.cutoff / 3**0.5)
            squares = vectors.square().sum(1)
            u, x = squares / model.cutoff**2, (model.sigma.double() ** 2 / squares) ** 3
            smooth, factor = (1 - u) ** 3, 2 * model.epsilon.double()
            energy = factor * (x * x - x) * smooth
            # d/d(r²) of the energy, times 2 r
            slope = factor * (
                -3 * (2 * x * x - x) / squares * smooth - 3 * (x * x - x) * (1 - u) ** 2 / model.cutoff**2
            )
            workspace.gradients[0, :, :3] = torch.where(used, 2 * slope[:, None] * vectors, 0.0)
            sums = torch.cat([energy.new_zeros(1), torch.where(used[:, 0], energy, 0.0).cumsum(0)])[
                graph.row_ptr.long()
            ]
            workspace.energies.copy_(sums.diff())

        return [Segment(launch)]

    def result(self, workspace: Atomic) -> Atomic:
        """The workspace is the result."""
        return workspace


def register() -> None:
    """Make the family known, to model files and to engines; the fastest backend first, and where it is taken unasked."""
    FAMILIES["lennard_jones"] = Family(
        LennardJones,
        LennardJonesConfig,
        {"fast_gpu": BackendChoice(InBuffers, ("cuda",)), "general": BackendChoice(General)},
    )


def main() -> None:
    """Through a model file, ASE and the physics checks."""
    register()
    with TemporaryDirectory() as folder:
        path = Path(folder) / "lennard-jones.safetensors"
        tensor_file.write(
            path, LennardJones(LennardJonesConfig()), {"name": "Lennard-Jones", "elements": ["H", "C", "N", "O"]}
        )
        engine = atomjet.load(path, device="cpu")
    crystal = bulk("C", "fcc", a=3.6, cubic=True)
    crystal.rattle(0.05, seed=0)
    crystal.calc = atomjet.AtomJetCalculator(engine)
    BFGS(crystal, logfile=None).run(fmax=1e-3)
    print(f"{engine.describe()}\n{crystal.get_potential_energy():.4f} eV, {len(crystal)} atoms")


if __name__ == "__main__":
    main()
