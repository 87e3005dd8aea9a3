"""Makes the SchNetPack golden files: random PaiNNs of SchNetPack's own, and what SchNetPack computes with them in float64.

Run in an environment with schnetpack (2.1.1 made the files here), ase and safetensors:  python make_schnetpack.py
Writes NAME.safetensors (the state_dict), NAME.json (hyperparameters by SchNetPack's names), NAME.golden.json (results).
"""

import json
from pathlib import Path
from typing import TypeVar

import torch
import torch.utils.data.dataloader as dataloader
from ase.build import bulk, molecule

if not hasattr(dataloader, "T_co"):
    dataloader.T_co = TypeVar("T_co")  # newer PyTorch renamed what SchNetPack 2.1 imports

import schnetpack as spk
import schnetpack.nn as snn
from safetensors.torch import save_file
from schnetpack import properties
from schnetpack.interfaces import AtomsConverter
from schnetpack.transform import ASENeighborList

VARIANTS = {
    "gaussian": dict(n_atom_basis=16, n_interactions=3, radial_basis="gaussian", n_rbf=20, cutoff=5.0),
    "bessel": dict(n_atom_basis=16, n_interactions=2, radial_basis="bessel", n_rbf=8, cutoff=4.3, epsilon=1e-6),
    "shared": dict(
        n_atom_basis=16, n_interactions=3, radial_basis="gaussian", n_rbf=12, cutoff=4.5,
        shared_interactions=True, shared_filters=True,
    ),
}  # fmt: skip


def structures():
    """Molecules, a triclinic crystal with several images per pair, a slab."""
    ethanol, methane = molecule("CH3CH2OH"), molecule("CH4")
    crystal = bulk("NaCl", "rocksalt", a=5.6)
    slab = bulk("Cu", cubic=True) * (2, 1, 1)
    slab.pbc = (True, True, False)
    for k, atoms in enumerate((ethanol, methane, crystal, slab)):
        atoms.rattle(0.1, seed=k)
    return [ethanol, methane, crystal, slab]


def build(n_atom_basis, n_interactions, radial_basis, n_rbf, cutoff, epsilon=1e-8, **shared):
    """A potential as SchNetPack users configure it, with random weights, reference energies and a mean."""
    basis = snn.GaussianRBF(n_rbf, cutoff) if radial_basis == "gaussian" else snn.BesselRBF(n_rbf, cutoff)
    painn = spk.representation.PaiNN(
        n_atom_basis, n_interactions, basis, snn.CosineCutoff(cutoff), epsilon=epsilon, **shared
    )
    potential = spk.model.NeuralNetworkPotential(
        painn,
        input_modules=[spk.atomistic.Strain(), spk.atomistic.PairwiseDistances()],
        output_modules=[
            spk.atomistic.Atomwise(n_atom_basis, output_key="energy"),
            spk.atomistic.Forces(calc_stress=True),
        ],
        postprocessors=[spk.transform.CastTo64(), spk.transform.AddOffsets("energy", add_mean=True, add_atomrefs=True)],
    )
    for parameter in potential.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    offsets = potential.postprocessors[1]
    offsets.atomref = torch.randn(100).mul(50)
    offsets.mean = torch.randn(1)
    return potential


def main():
    """Write all golden files beside this script."""
    here = Path(__file__).parent
    for seed, (name, hyper) in enumerate(VARIANTS.items()):
        torch.manual_seed(seed)
        potential = build(**hyper)
        state = {key: value.clone().contiguous() for key, value in potential.state_dict().items()}
        save_file(state, here / f"{name}.safetensors")
        recorded = dict(
            epsilon=1e-8,
            cutoff_fn="CosineCutoff",
            activation="silu",
            max_z=100,
            shared_interactions=False,
            shared_filters=False,
        )
        (here / f"{name}.json").write_text(json.dumps(recorded | hyper, indent=1) + "\n")
        potential = potential.double().eval()
        convert = AtomsConverter(neighbor_list=ASENeighborList(cutoff=hyper["cutoff"]), dtype=torch.float64)
        golden = {"schnetpack": spk.__dict__.get("__version__", "2.1.1"), "torch": torch.__version__, "structures": []}
        for atoms in structures():
            result = potential(convert(atoms))
            golden["structures"].append(
                {
                    "numbers": atoms.numbers.tolist(),
                    "positions": atoms.positions.tolist(),
                    "cell": atoms.cell.array.tolist(),
                    "pbc": atoms.pbc.tolist(),
                    "energy": result["energy"].item(),
                    "forces": result[properties.forces].tolist(),
                    "stress": result[properties.stress].squeeze(0).tolist() if atoms.pbc.all() else None,
                }
            )
        (here / f"{name}.golden.json").write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    main()
