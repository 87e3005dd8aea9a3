"""`TrainedAt`: the one charge, spin and task at which a model was trained whose family knows none of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from atomjet.data import System
from atomjet.errors import ConfigError, StructureError


@dataclass(frozen=True)
class TrainedAt:
    """Conditions of all training data, which a student of a teacher that knows more gives for every structure.

    Attributes:
        charge: e. spin: multiplicity 2S + 1; 0 where the data did not say it. task: "" where there was none.
    """

    charge: int = 0
    spin: int = 0
    task: str = ""

    @classmethod
    def of(cls, card: Mapping[str, Any]) -> TrainedAt | None:
        """What a card says (`card["data"]["conditions"]`); None where that is neutral, without task, and spin 1 or not said.

        Raises:
            ConfigError: conditions that are none.
        """
        said = card.get("data", {}).get("conditions")
        if said is None:
            return None
        try:
            found = cls(int(said.get("charge") or 0), int(said.get("spin") or 0), str(said.get("task") or ""))
        except (AttributeError, TypeError, ValueError):
            raise ConfigError(
                f"card: data.conditions is {said!r}; give whole numbers charge and spin, and a task"
            ) from None
        return None if found in (cls(), cls(spin=1)) else found

    def __str__(self) -> str:
        """Words for a message."""
        spin = f"spin {self.spin}" if self.spin else "spin not said"
        return f"charge {self.charge}, {spin}" + (f", task {self.task}" if self.task else "")

    def check_conditions(self, charge: int | None, spin: int | None) -> None:
        """Refuse defaults for structures that are not these.

        Raises:
            ConfigError: another charge or spin.
        """
        for name, value, own in (("charge", charge, self.charge), ("spin", spin, self.spin)):
            if value not in (None, own):
                raise ConfigError(f"{name} {value}: this model was trained at {self} alone; leave it out")

    def complete(self, system: System) -> System:
        """Structures that say these conditions or none of them, as ones that say none.

        Raises:
            StructureError: a structure says others; names it.
        """
        given = torch.tensor(system.charge_given, device=system.device)
        for name, bad in (
            ("charge", (given | (system.charge != 0)) & (system.charge != self.charge)),
            ("spin", (system.spin != 0) & (system.spin != self.spin)),
        ):
            if bool(bad.any()):
                structure = int(bad.nonzero()[0])
                value = int(getattr(system, name)[structure])
                raise self._refusal(f"{system.name(structure)}: {name} {value}", name)
        for structure, task in enumerate(system.task):
            if task not in ("", self.task):
                raise self._refusal(f"{system.name(structure)}: task {task!r}", "task")
        nothing = torch.zeros_like(system.charge)
        unsaid = (False,) * system.num_systems
        return replace(
            system,
            charge=nothing,
            spin=nothing,
            task=("",) * system.num_systems,
            charge_given=unsaid,
            spin_given=unsaid,
        )

    def _refusal(self, what: str, name: str) -> StructureError:
        return StructureError(
            f"{what}, but this model was trained at {self} alone, which it takes for every structure; remove info[{name!r}], "
            "or use another model"
        )
