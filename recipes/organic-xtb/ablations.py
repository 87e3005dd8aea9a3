"""Short trainings that differ in one choice each, on the same frames: python ablations.py DATASET -o ablations.json.

Every row of `ROWS` is trained for the same number of epochs by a process of its own, several GPUs at a time, with the labels in
DATASET (a directory of shards). The result holds for each row its seed, what it cost, its errors on frames that were held out,
and its errors by the largest force in a frame: those beyond 25 eV/Å are atoms squeezed into each other. It is written anew after
each row. A row that is there already is not trained again, and one that was stopped goes on.

    --only baseline,zbl   these rows              --gpus 0,1   devices; cpu trains on the CPU
    --epochs 40           of each row             --minutes M  at most, of each row
    --lanes 2             rows at a time per GPU: more are done, but what they cost is no longer their own
    --set train.compile=false --set student.features=64    for all rows
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from queue import Queue
from typing import Any

import numpy as np
import torch
import yaml
from ase import Atoms
from ase.build import bulk

from atomjet import Engine, System
from atomjet.distill.batches import FrameStore
from atomjet.distill.dataset import read_dataset
from atomjet.distill.evaluate import errors, predict
from atomjet.distill.frames import Frames
from atomjet.distill.ranks import Ranks
from atomjet.distill.recipe import Recipe, load_recipe
from atomjet.distill.train import run_train
from atomjet.engine import Settings
from atomjet.models.load import read
from atomjet.models.tensor_file import write_atomically

HERE = Path(__file__).parent

ROWS: dict[str, dict[str, Any]] = {
    "baseline": {},
    "zbl": {"student.zbl": [0.7, 1.0]},
    "zbl-inside-bonds": {"student.zbl": [0.5, 0.8]},
    "epsilon-1e-4": {"student.epsilon": 1e-4},
    "epsilon-1e-2": {"student.epsilon": 1e-2},
    "cutoff-6": {"student.cutoff": 6.0},
    "energy-cap-2": {"train.energy_cap": 2.0},
    "baseline-other-seed": {"seed": 2},
    "zbl-inside-bonds-epsilon-1e-2": {"student.zbl": [0.5, 0.8], "student.epsilon": 1e-2},
    "tiny": {"student.features": 64, "student.layers": 2, "student.cutoff": 4.5},
    "tiny-epsilon-1e-2": {
        "student.features": 64,
        "student.layers": 2,
        "student.cutoff": 4.5,
        "student.epsilon": 1e-2,
    },
    "hessian": {"train.hessian_weight": 0.05},
}

FORCES = (0.0, 2.0, 10.0, 25.0, np.inf)
"""eV/Å: bounds of the groups by the largest force in a frame."""

SOFT = 2.0
"""eV: a frame whose energy is so much too low lets atoms fall into each other."""

MEASURED, CALM = 1024, 5.0
"""Frames whose step is timed, and the largest force that they may have, eV/Å."""

PAIRS = ("CC", "NN", "OO", "CO", "CH")
"""Diatomics whose force is looked at closely."""


def recipe_of(row: str, options: argparse.Namespace) -> Recipe:
    """The packaged student's recipe with what the row and the command line change."""
    content = load_recipe(HERE / "recipe.yaml").model_dump(mode="json")
    changes: dict[str, Any] = {
        "name": row,
        "output": str((options.work / row).resolve()),
        "train.data": [{"path": str(options.dataset.resolve())}],
        "train.epochs": options.epochs,
        "train.max_minutes": options.minutes,
        "train.validation_interval": options.epochs,
        **ROWS[row],
        **{name: yaml.safe_load(value) for name, _, value in (text.partition("=") for text in options.set)},
    }
    for name, value in changes.items():
        *sections, field = name.split(".")
        place = content
        for section in sections:
            place = place[section]
        place[field] = value
    return Recipe.model_validate(content)


def train_row(row: str, options: argparse.Namespace) -> dict[str, Any]:
    """Train and judge one row, in this process."""
    recipe, started = recipe_of(row, options), time.monotonic()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    path = run_train(recipe, device=device, quiet=True)
    model: Any
    model, card = read(path)
    frames = read_dataset(options.dataset)
    heldout = frames.select((frames.split != "train") & ~frames.large)
    ran = card["training"]
    return {
        "row": row,
        "changes": ROWS[row],
        "seed": recipe.seed,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "training_frames": int((frames.split == "train").sum()),
        "epochs": ran["epochs"],
        "training_seconds": float(f"{60 * ran['minutes']:.3g}"),
        "frames_per_second": round(ran["steps"] * recipe.train.batch_size / max(60 * ran["minutes"], 1e-9)),
        "whole_seconds": round(time.monotonic() - started, 1),
        "device": ran["device"],
        **in_use(model, card, heldout, device),
        "errors": card["errors"],
        "by_largest_force": by_largest_force(model.to(device), heldout, torch.device(device)),
    }


def by_largest_force(model: Any, frames: Frames, device: torch.device) -> dict[str, dict[str, float]]:
    """Errors in the groups of `FORCES`, and how many frames are more than `SOFT` too low in energy."""
    store = FrameStore(frames, model.reference_energies.cpu().numpy(), model.cutoff, device)
    predicted = predict(model, store, Ranks(0, 1, device))
    strongest, found = store.strongest.cpu().numpy(), {}
    low = predicted.energy - store.energy.double().cpu().numpy() < -SOFT
    for least, most in pairwise(FORCES):
        chosen = (strongest >= least) & (strongest < most)
        if chosen.any():
            found[f"{least:g}-{most:g} eV/Å"] = errors(store, predicted, chosen) | {
                "too_soft": int((low & chosen).sum())
            }
    return found


def in_use(model: Any, card: dict[str, Any], frames: Frames, device: str) -> dict[str, float]:
    """What the engine makes of it: speed on calm frames in one batch, rounding in the default precision, smoothness in float64."""
    engine = Engine(model, Settings(device, on_overlap="warn"), card)
    exact = engine.with_settings(precision="float64")
    largest = np.zeros(len(frames))
    np.maximum.at(largest, np.repeat(np.arange(len(frames)), frames.counts), np.linalg.norm(frames.forces, axis=1))
    calm = list(frames.select(np.flatnonzero(largest < CALM)[:MEASURED]))
    times, system = [], System.from_ase(calm, device=device, dtype=torch.float32)
    for _ in range(23):
        started = time.perf_counter()
        engine.predict(system).energy.cpu()
        times.append(time.perf_counter() - started)
    rounded = engine.predict(calm).forces.double() - exact.predict(calm).forces
    diamond = bulk("C", "diamond", a=3.57, cubic=True).repeat(2)
    return {
        "microseconds_per_atom": round(1e6 * statistics.median(times[3:]) / len(rounded), 4),
        "rounding_rms_meV_A": 1e3 * float(rounded.square().mean().sqrt()),
        "force_in_perfect_diamond_eV_A": float(engine.predict(diamond).forces.abs().max()),
        "largest_kink_eV_A": max(kink(exact, pair) for pair in PAIRS),
    }


def kink(exact: Engine, pair: str) -> float:
    """Largest change of slope of a diatomic's force within 1e-3 Å, eV/Å: a smooth force has some 1e-4."""
    distances = np.arange(1.0, 4.0, 1e-3)
    forces = exact.predict([Atoms(pair, [[0, 0, 0], [d, 0, 0]]) for d in distances]).forces[1::2, 0]
    return float(torch.diff(forces, n=2).abs().max())


def main() -> None:
    """Hand the rows to the GPUs, one process each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("-o", "--out", type=Path, default=Path("ablations.json"))
    parser.add_argument("--work", type=Path, default=Path("runs/ablations"))
    parser.add_argument("--only", default=",".join(ROWS))
    parser.add_argument("--gpus", default="0")
    parser.add_argument("--lanes", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    if options.worker:
        found = train_row(options.worker, options)
        write_atomically(options.work / f"{options.worker}.json", json.dumps(found, indent=1).encode())
        return
    wanted = options.only.split(",")
    if unknown := sorted(set(wanted) - set(ROWS)):
        parser.error(f"no row {unknown[0]!r}; there are {', '.join(ROWS)}")
    free: Queue[str] = Queue()
    for gpu in options.gpus.split(",") * options.lanes:
        free.put(gpu)
    with ThreadPoolExecutor(free.qsize()) as pool:
        for row in pool.map(lambda row: run_row(row, free, options), wanted):
            told = summary(options.work / f"{row}.json", row)
            print(told, flush=True)
            rows = [json.loads(path.read_text()) for name in wanted if (path := options.work / f"{name}.json").exists()]
            write_atomically(options.out, json.dumps({"rows": rows}, indent=1).encode())


def run_row(row: str, free: Queue[str], options: argparse.Namespace) -> str:
    """Train one row on the next GPU that is free; what it prints goes to a file beside its result."""
    if (options.work / f"{row}.json").exists():
        return row
    gpu = free.get()
    visible = {"CUDA_VISIBLE_DEVICES": "" if gpu == "cpu" else gpu}
    command = [sys.executable, __file__, *sys.argv[1:], "--worker", row]
    try:
        with open(options.work / f"{row}.log", "w", encoding="utf-8") as log:
            subprocess.run(command, env=os.environ | visible, stdout=log, stderr=subprocess.STDOUT, check=False)
    finally:
        free.put(gpu)
    return row


def summary(path: Path, row: str) -> str:
    """One line of a row, or the last that it said before it failed."""
    if not path.exists():
        said = path.with_suffix(".log").read_text(encoding="utf-8").strip().splitlines()
        return f"{row:30s} failed: {said[-1] if said else 'without a word'}"
    found = json.loads(path.read_text())
    forces = ", ".join(
        f"{name} {group['force_mae_meV_A']:.1f}" + (f" ({group['too_soft']} too soft)" if group["too_soft"] else "")
        for name, group in found["by_largest_force"].items()
    )
    return (
        f"{row:30s} {found['training_seconds']:6.1f} s, {found['frames_per_second']:6d} frames/s, "
        f"{found['microseconds_per_atom']} µs/atom, kink {found['largest_kink_eV_A']:.4f} eV/Å; force MAE meV/Å: {forces}"
    )


if __name__ == "__main__":
    main()
