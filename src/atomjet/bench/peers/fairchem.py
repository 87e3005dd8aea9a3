"""fairchem itself with the same checkpoint file: its predict unit, as its own benchmark calls it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from atomjet.adapters.structures import to_ase
from atomjet.bench.contender import Unavailable
from atomjet.data import Prediction, System
from atomjet.engine import Engine

SETTINGS: dict[str, dict[str, Any]] = {
    "fairchem": {"execution_mode": "general"},
    "fairchem_compiled": {"execution_mode": "umas_fast_pytorch", "tf32": True, "compile": True},
    "fairchem_fast_gpu": {"execution_mode": "umas_fast_gpu", "tf32": True, "compile": True},
}
"""Settings of its inference by the name of the contender, beside `ALL`. The last is its preset "multigpu"; its "nitro" serves three
released files only, told by their checksums.
"""

ALL: dict[str, Any] = {"merge_mole": True, "activation_checkpointing": False}
"""Experts are merged, as ours are."""


class Fairchem:
    """`MLIPPredictUnit.predict`, as its own benchmark calls it."""

    def __init__(self, name: str, engine: Engine, path: Path) -> None:
        # Imported here, where it is wanted: it takes seconds, and most have no fairchem.
        from fairchem.core.units.mlip_unit import MLIPPredictUnit
        from fairchem.core.units.mlip_unit.api.inference import InferenceSettings

        self.name, self.engine = name, engine
        settings = InferenceSettings(**ALL, **SETTINGS[name])
        self.includes = (
            "neighbour search, energy, forces, stress, synchronisation; its data are on the device; experts merged, "
            f"{SETTINGS[name]}"
        )
        self.unit = MLIPPredictUnit(str(path), engine.device.type, inference_settings=settings)

    def prepare(self, system: System) -> Any:
        """Its own data, on the device; the first are predicted for at once, on the way from the CPU, where it merges experts."""
        from fairchem.core.datasets.atomic_data import AtomicData, atomicdata_list_to_batch

        frames = []
        for number in range(system.num_systems):
            atoms, task = to_ase(system, number), system.task[number] or self.engine.task
            atoms.info |= {"charge": int(system.charge[number]), "spin": int(system.spin[number])}
            frames.append(AtomicData.from_ase(atoms, task_name=task, r_data_keys=["charge", "spin"]))
        data = atomicdata_list_to_batch(frames)
        if not self.unit.lazy_model_intialized:
            self.unit.predict(data)
        return data.to(self.engine.device), system

    def call(self, prepared: Any) -> Prediction:
        """Predict."""
        data, system = prepared
        found = self.unit.predict(data)
        self._check()
        stress = found["stress"].detach().reshape(-1, 3, 3)
        nothing = torch.zeros(system.num_atoms, dtype=torch.float64, device=stress.device)
        return Prediction(
            found["energy"].detach().double().reshape(-1),
            found["forces"].detach(),
            stress,
            nothing,
            system.system_index,
        )

    def _check(self) -> None:
        """What its settings cannot serve it does in another way, and only logs that."""
        for setting, value in (ALL | SETTINGS[self.name]).items():
            ran = getattr(self.unit.inference_settings, setting)
            if ran != value:
                raise Unavailable(f"fairchem ran with {setting} = {ran} instead of {value}")


def build(name: str, engine: Engine) -> Fairchem:
    """fairchem-core 2.x must be importable, and the model one of its checkpoints."""
    path = Path(engine.card.get("file", ""))
    if engine.model.family != "escn_md" or path.suffix != ".pt":
        raise Unavailable("fairchem reads its own checkpoints only; give one (.pt) as --model")
    if name == "fairchem_fast_gpu" and engine.device.type != "cuda":
        raise Unavailable("fairchem's umas_fast_gpu needs a GPU")
    try:
        return Fairchem(name, engine, path)
    except ImportError as error:
        raise Unavailable(f"fairchem cannot be imported ({error}); pip install fairchem-core") from None
