"""A contender on one case, ready to be called again and again, each time with positions that differ from the last."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from atomjet.adapters.ase import AtomJetCalculator
from atomjet.adapters.structures import to_ase
from atomjet.bench import accuracy, contenders, searches
from atomjet.bench.captured_steps import CapturedSteps, DeviceCall
from atomjet.bench.contender import Contender, EngineContender, Unavailable, reference
from atomjet.bench.measure import Stopwatch, allocated, synchronize
from atomjet.bench.parts import Parts, parts_of_call
from atomjet.bench.suites import Suite
from atomjet.data import Graph, Prediction, System
from atomjet.engine import Engine
from atomjet.errors import SimulationError
from atomjet.md.device import Replicas
from atomjet.md.dynamics import build_dynamics, take_step
from atomjet.md.replicas import why_not_on_device
from atomjet.md.settings import MDSettings
from atomjet.md.velocities import degrees_of_freedom, draw_velocities
from atomjet.neighbors import brute_force, cpu, search

TURNS = 8
"""Sets of positions that calls take in turn: none is that of the call before, so that no cache can answer."""

MANY_EDGES = 1_000_000
"""Contenders that keep prepared edge lists keep two of them beyond this many."""

MANY_ATOMS = 50_000
"""Two sets of positions, not `TURNS`, from here on."""

MOVE = 0.01
"""Standard deviation of the moves, Å."""

TIMESTEP = 0.5
"""Time step of molecular dynamics that is timed, fs."""

TOGETHER = 50
"""Steps on the device that are enqueued at a time; a run enqueues up to 256."""

KELVIN = 10.0
"""Cold: the geometry stays near the one whose edges were counted, whatever weights are measured."""

SMALL_ENOUGH = 400
"""Atoms up to which searches are judged by the brute-force neighbour list, the definition; larger cases by vesin."""


@dataclass
class TimedCall:
    """What the race needs to know of a contender on a case.

    Attributes:
        call: one timed call, by a running number. includes: what it does, in words.
        judge: measure the accuracy; None where it cannot be had at this size.
        per_call: what one call does, for throughput: structures, atoms, and for dynamics fs.
        parts: makes the parts of the call, to be timed by themselves.
        together: how many times in one timed call the thing happens whose time a row gives.
        held: bytes of the device that it took for the case before the first call, and keeps.
        on_device: gives, by the number of the call just made, its seconds on the device; raises where what was timed is wrong.
    """

    call: Callable[[int], Any]
    includes: str
    judge: Callable[[], dict[str, Any] | None]
    per_call: dict[str, float]
    parts: Callable[[], Parts] = dict
    together: int = 1
    held: int = 0
    on_device: Callable[[int], float] | None = None


class Contenders:
    """Makes timed calls; contenders are built once for a suite, so that what they compile serves all its cases.

    Attributes:
        built: contenders by name. late: those whose very first calls were not done in time, and the message.
        recharged: of the case under way, see `Case`.
    """

    def __init__(self, suite: Suite, engine: Engine) -> None:
        self.suite, self.engine = suite, engine
        self.built: dict[str, Contender] = {}
        self.late: dict[str, str] = {}
        self.recharged = False
        self.judged: tuple[System, System | None, Prediction | None] | None = None
        self.searched: tuple[System, System, Graph] | None = None

    def enter(self, name: str, system: System) -> TimedCall:
        """Make a contender ready for a case.

        Raises:
            Unavailable: it cannot take part.
        """
        return RACES[self.suite.race](name, system, self)

    def contender(self, name: str) -> Contender:
        """The one that serves all cases.

        Raises:
            Unavailable: it cannot be built.
        """
        if name not in self.built:
            self.built[name] = contenders.build(name, self.engine)
        return self.built[name]

    def forget(self) -> None:
        """Have contenders give back what they keep for structures that come again: the next case's are others."""
        for contender in self.built.values():
            if isinstance(contender, EngineContender):
                contender.engine.drop_buffers()

    def reference(self, system: System) -> tuple[System | None, Prediction | None]:
        """As much of the structures as float64 with autograd allows, moved, and the reference of them; once a case."""
        if self.judged is None or self.judged[0] is not system:
            few = accuracy.first_structures(moved(system, 1)[0], accuracy.LARGEST_REFERENCE[self.engine.device.type])
            exact = None if few is None else reference(self.engine).predict(few)
            self.judged = system, few, exact
        return self.judged[1:]

    def edges(self, system: System, cutoff: float) -> tuple[System, Graph]:
        """The structures on the CPU, moved, and their edges by the definition, or by vesin where it takes too long; once a case."""
        if self.searched is None or self.searched[0] is not system:
            other = moved(system.to("cpu"), 1)[0]
            find = brute_force if other.num_atoms <= SMALL_ENOUGH else cpu.search
            self.searched = system, other, find(other, cutoff)
        return self.searched[1:]


def progress_line(row: dict[str, Any], clock: str) -> str:
    """One line on a row just measured."""
    start = f"{row['case']:24} {row['setting']:22}"
    if row["status"] != "ok":
        return f"{start} {row['status']}: {row['reason']}"
    values = np.array(row["samples"][0][clock])
    error = row.get("accuracy", {}).get("force_rmse")
    rmse = "" if error is None else f"  force RMSE {error:.1e} eV/Å"
    return f"{start} {1e3 * np.median(values):10.4g} ms  ({len(values)} runs){rmse}{row['reason'] and '  ' + row['reason']}"


def moved(system: System, turns: int = TURNS) -> list[System]:
    """Copies of the structures, `turns` of them, with atoms moved by normal deviates of `MOVE` Å, differently in each copy."""
    generator = torch.Generator().manual_seed(1)
    moves = [torch.randn(system.positions.shape, generator=generator, dtype=torch.float64) for _ in range(turns)]
    return [system.with_positions(system.positions + MOVE * move.to(system.device)) for move in moves]


def recharged(system: System, charge: int) -> System:
    """Copies of the structures, each with this charge, e."""
    return replace(system, charge=torch.full_like(system.charge, charge), charge_given=(True,) * system.num_systems)


def _prediction_call(name: str, system: System, contenders: Contenders) -> TimedCall:
    contender, engine = contenders.contender(name), contenders.engine
    own = contender.engine if isinstance(contender, EngineContender) else engine
    edges = search(system, engine.cutoff).num_edges if system.num_atoms <= accuracy.LARGEST_REFERENCE["cuda"] else 0
    turns = TURNS if edges < MANY_EDGES and system.num_atoms < MANY_ATOMS else 2
    systems = moved(system, turns)
    if contenders.recharged:
        systems = [recharged(other, turn) for turn, other in enumerate(systems, 1)]
    prepared = [contender.prepare(other) for other in systems]

    def judge() -> dict[str, Any] | None:
        few, exact = contenders.reference(system)
        if few is None or exact is None:
            return None
        gate = accuracy.gate_of(own)
        made = contender.call(contender.prepare(few)).to(engine.device)
        return accuracy.compare_predictions(made, exact, few, gate).to_json()

    per_call = {"structures": float(system.num_systems), "atoms": float(system.num_atoms)}
    plain = edges and turns == TURNS and type(contender) is EngineContender
    timed = TimedCall(lambda turn: contender.call(prepared[turn % turns]), contender.includes, judge, per_call)
    if plain:
        timed.parts = lambda: parts_of_call(own, moved(system, 2))
    return timed


def _dynamics_call(name: str, system: System, contenders: Contenders) -> TimedCall:
    contender = contenders.contender(name)
    if not isinstance(contender, EngineContender):
        raise Unavailable("takes part in predictions only, not in dynamics")
    judge = _prediction_call(name, system, contenders).judge
    atoms = to_ase(system)
    atoms.calc = AtomJetCalculator(contender.engine, remarks=False)
    generator, settings = np.random.default_rng(0), MDSettings(steps=1, timestep=TIMESTEP)
    draw_velocities(atoms, KELVIN, "nve", generator)
    per_call = {"structures": 1.0, "atoms": float(len(atoms)), "fs": TIMESTEP}
    if not why_not_on_device(contender.engine, atoms, settings):
        return _replica_call(contender.engine, atoms, settings, judge, per_call)
    dynamics = build_dynamics(atoms, settings, generator)
    includes = (
        "one velocity Verlet step as `atomjet md` takes it, through ASE: integration, ase.Atoms to the device, checks, "
        "neighbour search, energy, forces, stress, copy of the results to the host"
    )
    forces: np.ndarray | None = None

    def step(turn: int) -> None:
        nonlocal forces
        forces = take_step(dynamics, forces)

    return TimedCall(step, includes, judge, per_call)


def _replica_call(
    engine: Engine, atoms: Any, settings: MDSettings, judge: Callable[[], Any], per_call: dict[str, float]
) -> TimedCall:
    """Steps on the device, as `atomjet md` takes them where it can."""
    before = allocated(engine.device)
    replicas = Replicas(engine, [atoms], settings, [degrees_of_freedom(atoms, "nve")], TOGETHER)
    replicas.evaluate()
    held = allocated(engine.device) - before

    def step(turn: int) -> None:
        replicas.advance(TOGETHER)
        synchronize(engine.device)
        if int(replicas.motion.flags.max()):
            raise SimulationError("the run halted; no steps were taken")

    includes = (
        f"one velocity Verlet step as `atomjet md` takes it on the device: integration, neighbour search, energy, forces, stress; "
        f"{TOGETHER} steps enqueued and synchronised together, observables kept there"
    )
    return TimedCall(step, includes, judge, per_call, together=TOGETHER, held=held)


def _step_call(name: str, system: System, contenders: Contenders) -> TimedCall:
    """Steps on the device, timed by it; the last is judged."""
    contender = contenders.contender(name)
    systems = moved(system, TURNS if system.num_atoms < MANY_ATOMS else 2)[::-1]
    own = contender.engine if isinstance(contender, EngineContender) else None
    made: DeviceCall = contender.step(systems)  # type: ignore[attr-defined]  # those that the suite knows have it
    steps = CapturedSteps(made, [one.positions for one in systems])

    def judge() -> dict[str, Any] | None:
        few, exact = contenders.reference(system)
        if few is None or exact is None:
            return None
        steps.replay()
        gate, gates = accuracy.gate_of(own or contenders.engine), accuracy.STEP_GATES if own else accuracy.GATES
        return accuracy.compare_predictions(made.prediction(few), exact, few, gate, gates).to_json()

    per_call = {
        "structures": float(system.num_systems),
        "atoms": float(system.num_atoms),
        "edges": float(made.edges),
    }
    return TimedCall(
        steps, made.includes, judge, per_call, together=steps.together, held=made.held, on_device=steps.seconds
    )


def _search_call(name: str, system: System, contenders: Contenders) -> TimedCall:
    cutoff, systems = contenders.suite.cutoff or contenders.engine.cutoff, moved(system)
    made = searches.build(name, systems, cutoff)

    def judge() -> dict[str, Any]:
        other, exact = contenders.edges(system, cutoff)
        return {
            "passed": accuracy.same_edges(made.graph(other.to(system.device)), exact),
            "edges": exact.num_edges,
        }

    per_call = {"structures": float(system.num_systems), "atoms": float(system.num_atoms)}
    if system.device.type != "cuda":
        return TimedCall(lambda turn: made.call(systems[turn % TURNS]), made.includes, judge, per_call)
    # What the host takes to launch the first of several calls is lost in the others.
    together, watch = TURNS if made.enqueues else 1, Stopwatch()

    def call(turn: int) -> None:
        with watch:
            for one in systems if made.enqueues else [systems[turn % TURNS]]:
                made.call(one)

    return TimedCall(call, made.includes, judge, per_call, together=together, on_device=lambda turn: watch.seconds)


RACES = {"predict": _prediction_call, "move": _dynamics_call, "step": _step_call, "search": _search_call}
"""By `Suite.race`, what contenders do in it."""
