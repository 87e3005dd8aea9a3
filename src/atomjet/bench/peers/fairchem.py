"""fairchem itself with the same checkpoint file: its predict unit, as its own benchmark calls it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from atomjet.adapters.structures import to_ase
from atomjet.bench.contender import Unavailable
from atomjet.data import Prediction, System
from atomjet.engine import Engine

SETTINGS: dict[str, dict[str, Any]] = {
    "fairchem": {"execution_mode": "general"},
    "fairchem_compiled": {"execution_mode": "umas_fast_pytorch", "tf32": True, "compile": True},
    "fairchem_fast_gpu": {"execution_mode": "umas_fast_gpu", "tf32": True, "compile": True},
    "fairchem_nitro": {"nitro": True, "tf32": True, "compile": True},
}
"""Settings of its inference by the name of the contender, beside `ALL`. The last two are its presets "multigpu" and "nitro"."""

ALL: dict[str, Any] = {"merge_mole": True, "activation_checkpointing": False}
"""Experts are merged, as ours are."""

UNCHECKED = "; its check that the file is one of three released ones is replaced in memory"
"""What a table says of nitro, which tells files by their checksums: checkpoints with random weights have others."""


class Fairchem:
    """`MLIPPredictUnit.predict`, as its own benchmark calls it.

    A unit serves the composition, charge, spin and task that it has merged experts for; structures with others get another.
    """

    def __init__(self, name: str, engine: Engine, path: Path) -> None:
        # Imported here, where it is wanted: it takes seconds, and most have no fairchem.
        from fairchem.core.units.mlip_unit import MLIPPredictUnit
        from fairchem.core.units.mlip_unit.api.inference import InferenceSettings

        self.name, self.engine = name, engine
        self.includes = (
            "neighbour search, energy, forces, stress, synchronisation; its data are on the device; experts merged, "
            f"{SETTINGS[name]}"
        )
        if SETTINGS[name].get("nitro"):
            take_any_file()
            self.includes += UNCHECKED

        def unit() -> Any:
            settings = InferenceSettings(**ALL, **SETTINGS[name])
            return MLIPPredictUnit(str(path), engine.device.type, inference_settings=settings)

        self._make, self._unit, self._merged = unit, unit(), None
        self._check(self._unit)

    def prepare(self, system: System) -> Any:
        """Its own data, on the device, and the unit that serves them; the first are predicted for at once, on the way from the CPU,
        where it merges experts.
        """
        from fairchem.core.datasets.atomic_data import AtomicData, atomicdata_list_to_batch

        frames, merged = [], []
        said = self.engine.model.complete(
            system, self.engine.task
        )  # without a spin a molecule is a singlet, as for ours
        for number, task in enumerate(said.task):
            atoms, charge, spin = to_ase(system, number), int(said.charge[number]), int(said.spin[number])
            atoms.info |= {"charge": charge, "spin": spin}
            frames.append(AtomicData.from_ase(atoms, task_name=task, r_data_keys=["charge", "spin"]))
            merged.append((np.bincount(atoms.numbers).tobytes(), len(atoms), charge, spin, task))
        if self._merged not in (None, merged):
            self._unit = self._make()
        self._merged = merged
        data = atomicdata_list_to_batch(frames)
        if not self._unit.lazy_model_intialized:
            self._unit.predict(data)
        return self._unit, data.to(self.engine.device), system

    def call(self, prepared: Any) -> Prediction:
        """Predict."""
        unit, data, system = prepared
        found = unit.predict(data)
        self._check(unit)
        stress = found["stress"].detach().reshape(-1, 3, 3)
        nothing = torch.zeros(system.num_atoms, dtype=torch.float64, device=stress.device)
        return Prediction(
            found["energy"].detach().double().reshape(-1),
            found["forces"].detach(),
            stress,
            nothing,
            system.system_index,
        )

    def _check(self, unit: Any) -> None:
        """What its settings cannot serve it does in another way, and only logs that."""
        for setting, value in (ALL | SETTINGS[self.name]).items():
            ran = getattr(unit.inference_settings, setting)
            if ran != value:
                raise Unavailable(f"fairchem ran with {setting} = {ran} instead of {value}")


def take_any_file() -> None:
    """Have nitro load a checkpoint whose checksum it does not know: the architecture is what its kernels are for."""
    try:
        from fairchem.core.models.uma.uma_nitro import _inference
    except ImportError as error:
        raise Unavailable(f"fairchem's nitro cannot be imported ({error})") from None
    _inference.verify_checkpoint_file = lambda path: None


def build(name: str, engine: Engine) -> Fairchem:
    """fairchem-core 2.x must be importable, and the model one of its checkpoints."""
    path = Path(engine.card.get("file", ""))
    if engine.model.family != "escn_md" or path.suffix != ".pt":
        raise Unavailable("fairchem reads its own checkpoints only; give one (.pt) as --model")
    if name in ("fairchem_fast_gpu", "fairchem_nitro") and engine.device.type != "cuda":
        raise Unavailable("fairchem's umas_fast_gpu and nitro need a GPU")
    try:
        return Fairchem(name, engine, path)
    except ImportError as error:
        raise Unavailable(f"fairchem cannot be imported ({error}); pip install fairchem-core") from None
