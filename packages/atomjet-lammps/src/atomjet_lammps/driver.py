"""`attach`: LAMMPS asks AtomJet for energy, forces and virial in every step."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from ase.data import atomic_masses, atomic_numbers

import atomjet
from atomjet.data import ExchangeHalo
from atomjet.engine import Engine, SharedPrediction, predict_shared
from atomjet.engine.shared import check_shared, describe_shared
from atomjet.errors import AtomJetError, BackendError, ConfigError
from atomjet_lammps.edges import Ghosts, PairList, make_graph
from atomjet_lammps.session import STRESSES, Session
from atomjet_lammps.transport import MpiTransport, end

FIX = "atomjet"
"""Name of the fix that hands forces to LAMMPS."""

SKIN = 1.0
"""Å beyond the cutoff within which pairs are remembered; a wider one is made anew less often and tests more pairs in every step."""

ROUNDING = 1e-6
"""Å by which atoms may move beyond half of the skin."""

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
        stresses: whether atoms' shares in the virial are wanted of an engine that has them at a price: one on a GPU, alone. They
            are NaN there otherwise.
    """

    def __init__(self, session: Session, engine: Engine, types: Sequence[str] | None) -> None:
        self.engine, self.session = engine, session
        self.transport = MpiTransport(session.comm)
        self.numbers = self._by_type(types)
        self.pairs = PairList(engine.cutoff, SKIN)
        self.halo: ExchangeHalo | None = None
        self.halo_builds = 0
        self.stresses = False
        self.last: Result | None = None
        self._ghosts: Ghosts | None = None
        self._chosen: tuple[np.ndarray, float] | None = (
            None  # where own atoms were when images were chosen; how far they may go, Å
        )

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
            end(self.session.comm, f"step {step}, rank {self.transport.rank}: {error}", 1, at_once=True)
        except BaseException:
            end(
                self.session.comm,
                f"step {step}, rank {self.transport.rank}: unexpected\n{traceback.format_exc()}",
                1,
                at_once=True,
            )

    def _answer(self, step: int, owned: int, forces: np.ndarray) -> None:
        if self.session.has_just_rebuilt:  # as every run begins
            self.session.check_running()
        positions, types, ids = self.session.atoms(owned)
        if self.transport.size == 1:
            found = self._alone(positions[:owned], types[:owned])
        else:
            found = self._shared(positions, types, ids, owned)
        mine = found.forces.cpu().numpy()
        forces[:owned] = mine
        if found.atomic_virials is None:
            shares = np.full((owned, 3, 3), np.nan)
        else:
            shares = -found.atomic_virials.cpu().numpy()
        self.session.report(
            FIX, float(found.energy[0]), -found.virial[0].cpu().numpy(), found.atomic_energies.cpu().numpy(), shares
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
        # Only a GPU gains by the engine's own way. A stress needs three periodic directions, a virial does not.
        if self.stresses or device.type == "cpu" or not pbc.all():
            return predict_shared(self.engine, self.engine.search(system), atomic=True)
        found = self.engine.predict(system)
        volume = float(np.abs(np.linalg.det(cell)))
        assert found.atomic_energies is not None
        return SharedPrediction(found.energy, found.forces, found.stress * volume, found.atomic_energies)

    def _shared(self, positions: np.ndarray, types: np.ndarray, ids: np.ndarray, owned: int) -> SharedPrediction:
        self._check_images(positions, owned)
        ghosts = self._same_ghosts(ids, owned)
        pairs = self.pairs.within_cutoff(positions, owned)
        kinds = np.empty(len(ghosts.all_ids), np.int64)
        kinds[ghosts.rows] = types
        device = self.engine.device
        assert self.halo is not None
        graph = make_graph(pairs, ghosts, self.numbers[torch.from_numpy(kinds)], self.engine.cutoff, self.halo, device)
        return predict_shared(self.engine, graph, torch.from_numpy(ghosts.all_ids), atomic=True)

    def _check_images(self, positions: np.ndarray, owned: int) -> None:
        """Refuse to go on with images that LAMMPS chose when atoms were elsewhere; one rank alone finds all in the box itself.

        LAMMPS keeps images to the cutoff and its skin, which it cannot be asked for; the longest pair of its list is not longer.

        Raises:
            ConfigError: `neigh_modify` lets atoms move by more than half of the skin before images are chosen anew.
        """
        every, delay, check = self.session.neigh_modify()
        if delay == 0 and every == 1:
            self._chosen = None
            return
        if self._chosen is None or self.session.has_just_rebuilt:
            longest = max(self.transport.gather(self.session.longest_listed(positions)))
            self._chosen = positions[:owned].copy(), 0.5 * max(0.0, longest - self.engine.cutoff)
        before, limit = self._chosen
        moved = float(np.linalg.norm(positions[:owned] - before, axis=1).max(initial=0.0))
        if moved > limit + ROUNDING:
            raise ConfigError(
                f"atoms have moved by {moved:.2f} Å since LAMMPS last looked for neighbours, more than half of its skin, "
                f"{limit:.2f} Å: ranks may lack some that came near, as neigh_modify has every {every}, delay {delay}, check "
                f"{'yes' if check else 'no'}; write neigh_modify every 1 delay 0 check yes"
            )

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
        engine: on several ranks one whose backend can share a structure: "general", "fast_pytorch", or "fast_gpu" of PaiNN.
        types: chemical symbols by atom type; default: by the masses of the types.

    Raises:
        ConfigError: units, another pair, bond or kspace style, a fix or compute that needs energies of pairs, no atom ids, types
            that do not fit; on every rank alike.
        BackendError: several ranks and a backend that cannot share a structure, or ranks of unlike versions, models or settings.
    """
    session = Session(lmp)
    transport = MpiTransport(session.comm)
    conditions = (("task", engine.task), ("charge", engine.charge), ("spin", engine.spin))
    named = "".join(f", {name} {value}" for name, value in conditions if value is not None)
    _check_alike(transport, describe_shared(engine) + named)
    session.check()
    error: AtomJetError | None = None
    driver: Driver | None = None
    try:
        driver = Driver(session, engine, types)
        if transport.size > 1:
            check_shared(engine)
    except AtomJetError as caught:
        error = caught
    refusals = transport.gather(None if error is None else str(error))
    if error is not None:
        raise error
    for rank, text in enumerate(refusals):
        if text is not None:
            raise BackendError(f"rank {rank} refused: {text}")
    assert driver is not None
    _check_alike(transport, f"atom types {' '.join(driver.types)}")
    driver.stresses = any(style in STRESSES for _, _, style in session.info().used)
    session.prepare(FIX, engine.cutoff)
    lmp.set_fix_external_callback(FIX, driver, lmp)
    lmp.atomjet = driver  # lives as long as LAMMPS does
    return driver


def _check_alike(transport: MpiTransport, said: str) -> None:
    """Refuse ranks that would compute different things, in the same words on all."""
    first, *others = transport.gather(said)
    for rank, other in enumerate(others, 1):
        if other != first:
            raise BackendError(f"rank 0 has {first}; rank {rank} has {other}; give all ranks the same")


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
