"""SchNetPack's own PaiNN with the same weights: PairwiseDistances, PaiNN, Atomwise, autograd for the forces."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from atomjet.bench.contender import GRAPH_CALL, Unavailable
from atomjet.data import Graph, Prediction, System
from atomjet.engine import Engine
from atomjet.neighbors import search

RADIAL_BASES = {"gaussian": "GaussianRBF", "bessel": "BesselRBF"}
"""Our names and SchNetPack's."""


class SchNetPack:
    """The modules of schnetpack 2.x in the order of its NeuralNetworkPotential."""

    name = "schnetpack"
    includes = GRAPH_CALL

    def __init__(self, engine: Engine, library: Any) -> None:
        self.engine, self.properties = engine, library.properties
        config = engine.model.config
        basis = getattr(library.nn, RADIAL_BASES[config.radial_basis])
        self.modules = torch.nn.ModuleList(
            [
                library.atomistic.PairwiseDistances(),
                library.representation.PaiNN(
                    config.features,
                    config.layers,
                    basis(config.num_radial, config.cutoff),
                    library.nn.CosineCutoff(config.cutoff),
                    shared_interactions=config.shared_interactions,
                    shared_filters=config.shared_filters,
                    epsilon=config.epsilon,
                ),
                library.atomistic.Atomwise(config.features, output_key="energy"),
            ]
        )
        copied = self.modules.load_state_dict(foreign_weights(engine.model), strict=False)
        if copied.unexpected_keys or any("weight" in key or "bias" in key for key in copied.missing_keys):
            raise Unavailable(f"its weights have other names than expected: {copied}")
        self.modules.to(engine.device, engine.dtype).eval().requires_grad_(False)

    def prepare(self, system: System) -> tuple[System, Graph, Tensor]:
        """Search the neighbours."""
        graph = search(system, self.engine.cutoff)
        offsets = graph.vectors - (system.positions[graph.neighbors] - system.positions[graph.centers])
        return system, graph, offsets.to(self.engine.dtype)

    def call(self, prepared: tuple[System, Graph, Tensor]) -> Prediction:
        """Energy and forces."""
        system, graph, offsets = prepared
        names = self.properties
        positions = system.positions.to(self.engine.dtype).requires_grad_(True)
        inputs = {
            names.Z: system.atomic_numbers,
            names.R: positions,
            names.idx_i: graph.centers,
            names.idx_j: graph.neighbors,
            names.offsets: offsets,
            names.idx_m: system.system_index,
        }
        for module in self.modules:
            inputs = module(inputs)
        (gradient,) = torch.autograd.grad(inputs["energy"].sum(), positions)
        references = self.engine.model.reference_energies[system.atomic_numbers]
        energy = inputs["energy"].detach().double().reshape(-1)
        energy = energy.index_add(0, system.system_index, references)
        nothing = torch.full((system.num_systems, 3, 3), torch.nan, device=system.device)
        return Prediction(energy, -gradient, nothing, references, system.system_index)


def foreign_weights(model: Any) -> dict[str, Tensor]:
    """Our weights under SchNetPack's names within the module list."""
    names = {}
    for key, value in model.state_dict().items():
        part = key.split(".")
        if part[0] == "embedding":
            names["1.embedding.weight"] = value
        elif part[0] == "filters":
            names[f"1.filter_net.{part[1]}"] = value
        elif part[0] == "interactions":
            names[f"1.interactions.{part[1]}.interatomic_context_net.{int(part[3]) // 2}.{part[4]}"] = value
        elif part[0] == "mixings" and part[2] == "channel_mix":
            names[f"1.mixing.{part[1]}.mu_channel_mix.{part[3]}"] = value
        elif part[0] == "mixings":
            names[f"1.mixing.{part[1]}.intraatomic_context_net.{int(part[3]) // 2}.{part[4]}"] = value
        elif part[0] == "readout":
            names[f"2.outnet.{int(part[1]) // 2}.{part[2]}"] = value
    return names


def build(engine: Engine) -> Any:
    """SchNetPack 2.x must be importable."""
    if engine.model.family != "painn":
        raise Unavailable(f"SchNetPack has no {engine.model.family}")
    if engine.model.config.radial_basis not in RADIAL_BASES:
        raise Unavailable(f"SchNetPack has no radial basis {engine.model.config.radial_basis!r}")
    try:
        import schnetpack
    except ImportError as error:
        raise Unavailable(f"schnetpack cannot be imported ({error}); pip install schnetpack") from None
    return SchNetPack(engine, schnetpack)
