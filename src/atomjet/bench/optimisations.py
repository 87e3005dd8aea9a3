"""Our optimisations one by one, each with all before it: what every one of them brings.

All do the same: ase.Atoms on the host in, forces on the host out.
"""

from __future__ import annotations

from dataclasses import replace

from atomjet.adapters.structures import to_ase
from atomjet.bench.contender import EngineContender, Unavailable
from atomjet.data import Graph, Prediction, System
from atomjet.engine import Engine, streams
from atomjet.errors import BackendError
from atomjet.neighbors import cpu

OPTIMISATIONS = {
    "definition": "autograd through plain PyTorch; vesin finds the neighbours on the CPU",
    "analytic_forces": "the derivative written by hand, the function rearranged, sums over rows",
    "device_search": "neighbours found on the device",
    "fused_kernels": "search, messages, updates and forces in fused kernels, launched one by one",
    "cuda_graph": "all of them as one CUDA graph",
    "streams": "two batches under way at a time, so that the host packs while the device computes",
    "tuned": "kernels tiled as `atomjet tune` found best for this device, model and size",
}
"""What each optimisation adds, by its name."""

INCLUDES = (
    "ase.Atoms to the device, checks of the structure, neighbour search, energy, forces, stress, synchronisation, copy of the "
    "results to the host"
)


class HostSearch(Engine):
    """Finds neighbours on the CPU, whatever the device."""

    def search(self, system: System) -> Graph:
        """Vesin's cell lists."""
        return cpu.search(system.to("cpu"), self.cutoff).to(self.device)


class Optimisation(EngineContender):
    """One of `OPTIMISATIONS`."""

    includes = INCLUDES

    def prepare(self, system: System) -> list[list]:
        """Structures as ase.Atoms, in batches that are computed one after the other; one batch where they may overlap.

        Raises:
            Unavailable: so few atoms that nothing overlaps.
        """
        frames = [to_ase(system, k) for k in range(system.num_systems)]
        counts = [len(atoms) for atoms in frames]
        batches = streams.pack(counts, lambda batch: True)
        if self.name not in ("streams", "tuned"):
            return [[frames[k] for k in batch] for batch in batches]
        if self.name == "streams" and len(batches) == 1:
            raise Unavailable(f"{system.num_atoms} atoms are one batch, with nothing to overlap")
        return [frames]

    def call(self, prepared: list[list]) -> Prediction:
        """Predict all batches."""
        return Prediction.join([self.engine.predict(frames) for frames in prepared])


def build(name: str, engine: Engine) -> Optimisation:
    """Make one; `engine` gives weights, device and precision.

    Raises:
        Unavailable: it does not exist on this device, or for this model.
    """
    if name == "device_search" and engine.device.type == "cpu":
        raise Unavailable("on a CPU it is the optimisation before: vesin finds the neighbours")
    backend = {"definition": "general", "analytic_forces": "fast_pytorch", "device_search": "fast_pytorch"}
    settings = replace(engine.settings, backend=backend.get(name, "fast_gpu"))  # type: ignore[arg-type]
    engine_type = HostSearch if name in ("definition", "analytic_forces") else Engine
    try:
        made = engine_type(engine.model, settings, engine.card, engine.task)
    except BackendError as error:
        raise Unavailable(str(error)) from None
    if made.stages is None:
        return Optimisation(name, made)
    if name != "fused_kernels" and made.device.type == "cpu":
        raise Unavailable("on a CPU there is nothing to capture and nothing to overlap with")
    if name != "tuned":
        made.use(replace(made.stages, tuning=None), capture=name != "fused_kernels")
    elif made.stages.tuning is None or not made.stages.tuning.entries:
        raise Unavailable("no table says how to tile kernels for this device and model; `atomjet tune` makes one")
    return Optimisation(name, made)
