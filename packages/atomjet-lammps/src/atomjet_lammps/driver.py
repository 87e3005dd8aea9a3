"""`attach`: LAMMPS asks AtomJet for energy, forces and virial in every step."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

# mpi4py comes before lammps: it finds the MPI library that both must share.
from mpi4py import MPI  # isort: skip
import numpy as np
import torch
from ase.data import atomic_masses, atomic_numbers

import atomjet
from atomjet.data import ExchangeHalo
from atomjet.engine import Engine, SharedPrediction, predict_shared
from atomjet.engine.shared import check_shared
from atomjet.errors import AtomJetError, BackendError, ConfigError
from atomjet_lammps.edges import Ghosts, PairList, make_graph
from atomjet_lammps.session import Session
from atomjet_lammps.transport import MpiTransport

FIX = "atomjet"
"""Name of the fix that hands forces to LAMMPS."""

SKIN = 1.0
"""Å beyond the cutoff within which pairs are remembered; a wider one is made anew less often and tests more pairs in every step."""

MASS_TOLERANCE = 0.1
"""amu by which the mass of a type may differ from its element's."""


@dataclass
class Result:
    """What the last step gave this rank.

    Attributes:
        step: of LAMMPS.
        energy: eV, of all ranks.
        virial: (3, 3) eV, dE/dstrain, of all ranks.
        ids, forces: (owned,), (owned, 3) eV/Å.
    """

    step: int
    energy: float
    virial: np.ndarray
    ids: np.ndarray
    forces: np.ndarray


class Driver:
    """What LAMMPS calls in every step; see `attach`.

    Attributes:
        last: the `Result` of the last step.
        halo: of several ranks, as the last step used it.
        halo_builds: how often ranks told each other anew which atoms they need.
    """

    def __init__(self, lmp: Any, engine: Engine, types: Sequence[str] | None) -> None:
        self.engine, self.session = engine, Session(lmp)
        self.transport = MpiTransport(self.session.comm)
        self.numbers = self._by_type(types)
        self.pairs = PairList(engine.cutoff, SKIN)
        self.halo: ExchangeHalo | None = None
        self.halo_builds = 0
        self.last: Result | None = None
        self._ghosts: Ghosts | None = None

    def _by_type(self, types: Sequence[str] | None) -> torch.Tensor:
        """(types + 1,) atomic numbers; type 0 is none."""
        count = self.session.num_types
        if types is None:
            types = [_element(number + 1, mass) for number, mass in enumerate(self.session.masses())]
        if len(types) != count:
            raise ConfigError(
                f"{len(types)} elements ({' '.join(types)}) for {count} atom types; name one for each type, in order"
            )
        unknown = [symbol for symbol in types if symbol not in atomic_numbers]
        if unknown:
            raise ConfigError(f"{unknown[0]!r} is not a chemical symbol; write types as, for example, O H")
        self.types = list(types)
        return torch.tensor([0, *(atomic_numbers[symbol] for symbol in types)])

    def __call__(self, caller: Any, step: int, owned: int, ids: Any, x: Any, forces: np.ndarray) -> None:
        """Answer LAMMPS; whatever goes wrong ends all ranks, as LAMMPS itself would go on with the forces of before."""
        try:
            self._answer(step, owned, forces)
        except AtomJetError as error:
            self._end(f"error: step {step}, rank {self.transport.rank}: {error}", str(error).startswith("process "))
        except BaseException:
            self._end(f"error: step {step}, rank {self.transport.rank}: unexpected\n{traceback.format_exc()}", False)

    def _end(self, text: str, said_elsewhere: bool) -> None:
        if not said_elsewhere:
            print(text, file=sys.stderr, flush=True)
        self.session.comm.Abort(1)

    def _answer(self, step: int, owned: int, forces: np.ndarray) -> None:
        positions, types, ids = self.session.atoms(owned)
        if self.transport.size == 1:
            found = self._alone(positions[:owned], types[:owned])
        else:
            found = self._shared(positions, types, ids, owned)
        mine = found.forces.cpu().numpy()
        forces[:owned] = mine
        self.session.report(
            FIX, float(found.energy[0]), -found.virial[0].cpu().numpy(), found.atomic_energies.cpu().numpy()
        )
        self.last = Result(step, float(found.energy[0]), found.virial[0].cpu().numpy(), ids[:owned].copy(), mine)

    def _alone(self, positions: np.ndarray, types: np.ndarray) -> SharedPrediction:
        """One rank has everything: the engine's own way, captured on a GPU."""
        cell, pbc, origin = self.session.box()
        device = self.engine.device
        system = atomjet.System(
            positions=torch.from_numpy(positions - origin).to(device),
            atomic_numbers=self.numbers[torch.from_numpy(types.astype(np.int64))].to(device),
            cell=torch.from_numpy(cell)[None].to(device),
            pbc=torch.from_numpy(pbc)[None].to(device),
            system_index=torch.zeros(len(positions), dtype=torch.int64, device=device),
        )
        if not pbc.all():  # a stress needs three periodic directions, a virial does not
            return predict_shared(self.engine, self.engine.search(system))
        found = self.engine.predict(system)
        volume = float(np.abs(np.linalg.det(cell)))
        assert found.atomic_energies is not None
        return SharedPrediction(found.energy, found.forces, found.stress * volume, found.atomic_energies)

    def _shared(self, positions: np.ndarray, types: np.ndarray, ids: np.ndarray, owned: int) -> SharedPrediction:
        ghosts = self._same_ghosts(ids, owned)
        pairs = self.pairs.within_cutoff(positions, owned)
        kinds = np.empty(len(ghosts.all_ids), np.int64)
        kinds[ghosts.rows] = types
        device = self.engine.device
        assert self.halo is not None
        graph = make_graph(pairs, ghosts, self.numbers[torch.from_numpy(kinds)], self.engine.cutoff, self.halo, device)
        return predict_shared(self.engine, graph, torch.from_numpy(ghosts.all_ids))

    def _same_ghosts(self, ids: np.ndarray, owned: int) -> Ghosts:
        """Those of the last step, or new ones and a new halo where atoms of any rank have changed places."""
        changed = torch.tensor([float(self._ghosts is None or not self._ghosts.same(ids, owned))])
        self.transport.sum(changed)
        if self._ghosts is None or changed.item() > 0:
            self._ghosts = Ghosts(ids, owned)
            device = self.engine.device
            own, others = (
                torch.from_numpy(x.astype(np.int64)).to(device) for x in (ids[:owned], self._ghosts.ghost_ids)
            )
            self.halo = ExchangeHalo(own, others, self.transport)
            self.halo_builds += 1
        return self._ghosts


def attach(lmp: Any, engine: Engine, types: Sequence[str] | None = None) -> Driver:
    """Let an engine compute the forces of everything in a LAMMPS object, in any number of `run` and `minimize`; collective.

    Sets `pair_style zero` with the model's cutoff (LAMMPS keeps images that far), and a `fix external` named "atomjet" that reports
    energy (also by atom, for `compute pe/atom`), virial and forces.

    Args:
        lmp: a `lammps.lammps` whose box and atoms exist, `units metal`, without other forces.
        engine: on several ranks one whose backend can share a structure: "general" or "fast_pytorch".
        types: chemical symbols by atom type; default: by the masses of the types.

    Raises:
        ConfigError: units, another pair, bond or kspace style, no atom ids, types that do not fit; on every rank alike.
        BackendError: several ranks and a backend that cannot share a structure, or other versions of AtomJet on other ranks.
    """
    error: AtomJetError | None = None
    driver: Driver | None = None
    try:
        driver = Driver(lmp, engine, types)
        driver.session.check()
        if driver.transport.size > 1:
            check_shared(engine)
    except AtomJetError as caught:
        error = caught
    transport = MpiTransport(lmp.get_mpi_comm() or MPI.COMM_WORLD)
    refusals = transport.gather(None if error is None else str(error))
    if error is not None:
        raise error
    first = next((text for text in refusals if text is not None), None)
    if first is not None:
        raise BackendError(f"another rank refused: {first}")
    assert driver is not None
    _check_alike(transport, engine)
    driver.session.prepare(FIX, engine.cutoff)
    lmp.set_fix_external_callback(FIX, driver, lmp)
    lmp.atomjet = driver  # lives as long as LAMMPS does
    return driver


def _check_alike(transport: MpiTransport, engine: Engine) -> None:
    """Refuse ranks that would compute different things."""
    said = (
        getattr(atomjet, "__version__", ""),
        engine.backend,
        engine.precision,
        engine.cutoff,
        engine.card.get("name"),
    )
    for rank, other in enumerate(transport.gather(said)):
        if other != said:
            raise BackendError(
                f"rank {transport.rank} runs {said}, rank {rank} runs {other}; give all ranks the same AtomJet, model and settings"
            )


def _element(number: int, mass: float) -> str:
    """The element of a type by its mass.

    Raises:
        ConfigError: no element, or more than one, has about this mass.
    """
    from ase.data import chemical_symbols

    fits = [z for z in range(1, len(atomic_masses)) if abs(atomic_masses[z] - mass) < MASS_TOLERANCE]
    if len(fits) != 1:
        found = " or ".join(chemical_symbols[z] for z in fits) or "no element"
        raise ConfigError(
            f"atom type {number} has mass {mass:g}, which is that of {found}; name the types, for example types O H"
        )
    return chemical_symbols[fits[0]]
