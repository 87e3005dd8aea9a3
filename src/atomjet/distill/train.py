"""`atomjet train`: a student of the labelled frames, with its card and pictures.

In the recipe's output directory: `training/` (checkpoint, log, pictures) and the result, NAME.safetensors with NAME.md.
Several GPUs: `torchrun --nproc-per-node 4 -m atomjet train RECIPE.yaml`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import atomjet
from atomjet.distill.batches import FrameStore
from atomjet.distill.card import model_card, write_model
from atomjet.distill.conditions import check_one
from atomjet.distill.dataset import describe_dataset, read_dataset
from atomjet.distill.evaluate import Errors, Predicted, causes, errors, groups, hardest_molecules, predict
from atomjet.distill.frames import Frames, concatenate
from atomjet.distill.plots import plot_learning_curve, plot_parity
from atomjet.distill.ranks import Ranks, join
from atomjet.distill.recipe import Recipe
from atomjet.distill.reference_energies import elements_of, fit_reference_energies, without_repulsion
from atomjet.distill.round_summary import summaries
from atomjet.distill.schedule import WHOLE, Stage
from atomjet.distill.teacher import default_task, describe
from atomjet.distill.train_config import DataSource
from atomjet.distill.trainer import Trainer
from atomjet.distill.warm_start import read_start, shift_references, take_over
from atomjet.errors import ConfigError
from atomjet.locking import only_run
from atomjet.models import tensor_file
from atomjet.models.painn import PaiNN

HEADLINES = ("held-out molecules", "training molecules, held-out frames", "validation molecules")
"""Groups for the parity plot, the first that exists."""


def run_train(
    recipe: Recipe,
    resume: bool = True,
    device: str | torch.device | None = None,
    quiet: bool = False,
    stage: Stage = WHOLE,
) -> Path:
    """Train the student of a recipe, or go on where a stopped run was; prints what it did.

    Args:
        recipe: with labelled data, its own (`recipe.output / "dataset"`) or those of `recipe.train.data`.
        resume: go on from the checkpoint in the output directory, if there is one; else start over.
        device: None picks CUDA where there is one.
        quiet: no progress bar.
        stage: the part of the training to do; of one that is not the last the model is written to `training/`, without evaluation.

    Returns:
        The model file.

    Raises:
        ConfigError: no data, data that cannot be learned from, a checkpoint of another run, or another run at work there.
        KeyboardInterrupt: a signal ended the run early; a checkpoint was written.
    """
    with join(device) as ranks, only_run(recipe.output) if ranks.first else nullcontext():
        sources = recipe.train.data or (DataSource(path=recipe.output / "dataset", weight=1.0),)
        frames, weights = read_sources(recipe, sources)
        started = time.monotonic()
        trainer = make_trainer(recipe, frames, weights, ranks, quiet, stage)
        if resume and trainer.checkpoint_path.exists():
            trainer.restore()
            _say(ranks, f"going on from epoch {trainer.epoch}, step {trainer.step} ({trainer.checkpoint_path})")
        elif ranks.first:
            for old in (trainer.log.path, *trainer.folder.glob("stage-*.safetensors")):
                old.unlink(missing_ok=True)
        _say(ranks, _described(trainer, frames, time.monotonic() - started))
        if not trainer.fit():
            _say(ranks, f"stopped at epoch {trainer.epoch}, step {trainer.step}; run the same again to go on")
            raise KeyboardInterrupt
        if trainer.reached:
            target = recipe.train.target_force_mae
            _say(ranks, f"train.target_force_mae {target:g} meV/Å reached at epoch {trainer.epoch}: training ends")
        written = write_student(recipe, trainer) if stage.until < 1 else finish(recipe, sources, frames, trainer)
        if trainer.interrupted:  # in the last step: this student is done, but no other one shall begin
            raise KeyboardInterrupt
        return written


def write_student(recipe: Recipe, trainer: Trainer) -> Path:
    """Write the averaged weights as they are at the end of a stage."""
    path = trainer.folder / f"stage-{trainer.stage.number}.safetensors"
    if trainer.ranks.first:
        tensor_file.write(path, trainer.averaged, {"name": recipe.name, "reached_target": trainer.reached})
    trainer.ranks.wait()
    return path


def read_sources(recipe: Recipe, sources: Sequence[DataSource]) -> tuple[Frames, NDArray[np.float64]]:
    """All frames of all sources, and the weight of each frame; refused where a student cannot learn from them."""
    split = recipe.sample.split
    parts = [read_dataset(source.path, recipe.seed, split.validation, split.test) for source in sources]
    frames = concatenate(parts)
    weights = np.repeat([source.weight for source in sources], [len(part) for part in parts])
    unlabelled = ~np.isfinite(frames.energy)
    np.logical_or.at(unlabelled, np.repeat(np.arange(len(frames)), frames.counts), ~np.isfinite(frames.forces).all(1))
    if unlabelled.any():
        raise ConfigError(
            f"frame {int(np.flatnonzero(unlabelled)[0])} ({frames.molecule[unlabelled][0]}) has no finite energy and forces "
            f"({int(unlabelled.sum())} such frames); leave it out, or label it again"
        )
    teacher = teacher_of(recipe, sources)
    check_one(frames, "" if "all" in teacher else default_task(str(teacher["calculator"])))
    if not (frames.split == "train").any():
        raise ConfigError(f"none of the {len(frames)} frames belongs to the training split; lower sample.split.test")
    return frames, weights


def make_trainer(
    recipe: Recipe,
    frames: Frames,
    weights: NDArray[np.float64],
    ranks: Ranks,
    quiet: bool = False,
    stage: Stage = WHOLE,
) -> Trainer:
    """The student with its reference energies, the frames on the device, and what trains the one on the other."""
    training = frames.split == "train"
    if recipe.train.hessian_weight and not np.isin(frames.hessian_frame, np.flatnonzero(training)).any():
        raise ConfigError("train.hessian_weight is set but no training frame has Hessian rows; set label.hessian_rows")
    train, start = frames.select(training), read_start(recipe)
    architecture = recipe.student if start is None else start.config
    config = architecture.model_copy(update={"elements": tuple(elements_of(train, architecture.max_z).tolist())})
    # Those of the frames before any round, so that they stay what they are when rounds add frames.
    first = train.select(~np.strings.startswith(train.source, "round-"))
    seed = recipe.seed if recipe.train.seed is None else recipe.train.seed
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = PaiNN(config)
    model.to(ranks.device)
    if start is None:
        fitted = fit_reference_energies(without_repulsion(first, model), config.max_z)
        model.reference_energies.copy_(torch.as_tensor(fitted))
    else:
        _say(ranks, take_over(model, start.to(ranks.device)))
        shift_references(model, first, ranks, quiet=quiet)
    reference = model.reference_energies.cpu().numpy()
    store = FrameStore(train, reference, config.cutoff, ranks.device)
    validation = _watched(frames, recipe.train.validation_frames, config.elements)
    if recipe.train.target_force_mae and not len(validation):
        raise ConfigError(
            "train.target_force_mae needs validation frames; raise sample.split.in_distribution or leave it out"
        )
    watched = FrameStore(validation, reference, config.cutoff, ranks.device) if len(validation) else None
    folder = recipe.output / "training"
    return Trainer(model, store, weights[training], watched, recipe.train, seed, folder, ranks, quiet, stage)


def finish(recipe: Recipe, sources: Sequence[DataSource], frames: Frames, trainer: Trainer) -> Path:
    """Evaluate the averaged weights, write model, card and pictures, print the table of errors."""
    ranks, model = trainer.ranks, trainer.averaged
    heldout = frames.select((frames.split != "train") & _known(frames, model.elements))
    store = FrameStore(heldout, model.reference_energies.cpu().numpy(), model.cutoff, ranks.device)
    predicted = predict(model, store, ranks, progress="" if trainer.quiet else "evaluation")
    masks = groups(heldout)
    found = {name: errors(store, predicted, mask) for name, mask in masks.items()}
    hardest = hardest_molecules(store, predicted, (heldout.split == "test") & ~heldout.large)
    path = recipe.output / f"{recipe.name}.safetensors"
    if ranks.first:
        card = model_card(recipe, model, frames, teacher_of(recipe, sources), _what_ran(trainer), found, hardest)
        card["force_mae_meV_A"] = causes(store, predicted)
        rounds = [one for source in sources if source.path.is_dir() for one in summaries(source.path)]
        write_model(path, model, {**card, "rounds": rounds} if rounds else card)
        _print_errors(found)
        print(f"{path} ({path.stat().st_size / 1e6:.1f} MB), card {path.with_suffix('.md')}")
        _pictures(trainer, store, predicted, masks)
    ranks.wait()
    return path


def teacher_of(recipe: Recipe, sources: Sequence[DataSource]) -> dict[str, Any]:
    """The teacher of all shards; of several different ones a joint entry, of files without that information an unknown one."""
    teachers: list[dict[str, Any]] = []
    for source in sources:
        shards = sorted(source.path.glob("*.h5")) if source.path.is_dir() else [source.path]
        for shard in shards:
            known = shard.suffix in (".h5", ".hdf5")
            one = describe_dataset(shard).get("teacher") if known else None
            teachers.append(one or {"calculator": f"unknown ({shard.name})", "version": "unknown", "options": {}})
    different = [one for n, one in enumerate(teachers) if one not in teachers[:n]]
    if len(different) == 1:
        return different[0]
    if not different:
        return describe(recipe.teacher)
    names, versions = ({key: None for one in different for key in [str(one[k])]} for k in ("calculator", "version"))
    return {"calculator": " + ".join(names), "version": " + ".join(versions), "options": {}, "all": different}


def _watched(frames: Frames, most: int, elements: Sequence[int]) -> Frames:
    """Validation frames, evenly chosen; held-out frames of training molecules where no molecules are for validation."""
    known = _known(frames, elements)
    for split in ("validation", "in_distribution"):
        chosen = np.flatnonzero((frames.split == split) & known)
        if len(chosen):
            return frames.select(chosen[np.linspace(0, len(chosen) - 1, min(most, len(chosen))).astype(np.int64)])
    return frames.select(np.zeros(0, dtype=np.int64))


def _known(frames: Frames, elements: Sequence[int]) -> NDArray[np.bool_]:
    """Frames of elements that the student has seen."""
    known = np.ones(len(frames), dtype=bool)
    np.logical_and.at(known, np.repeat(np.arange(len(frames)), frames.counts), np.isin(frames.numbers, elements))
    return known


def _pictures(trainer: Trainer, store: FrameStore, predicted: Predicted, masks: dict[str, Any]) -> None:
    """Learning curve and parity plot; a GPU node without matplotlib goes without."""
    try:
        plot_learning_curve(trainer.log.path, trainer.folder / "learning_curve.png")
        title = next((name for name in HEADLINES if name in masks), None)
        if title:
            chosen, sizes = masks[title], store.sizes[masks[title]]
            atoms = np.repeat(chosen, store.sizes)
            energies = (store.energy.cpu().numpy()[chosen] / sizes, predicted.energy[chosen] / sizes)
            plot_parity(
                energies, (store.frames.forces[atoms], predicted.forces[atoms]), title, trainer.folder / "parity.png"
            )
        print(f"pictures in {trainer.folder}")
    except ImportError as error:
        print(f"no pictures ({error}); install matplotlib to have them")


def _what_ran(trainer: Trainer) -> dict[str, Any]:
    device = trainer.ranks.device
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        "processes": trainer.ranks.size,
        "minutes": float(f"{trainer.seconds / 60:.3g}"),
        "epochs": round(trainer.epoch + trainer.batch / trainer.batches_per_epoch, 2),
        "steps": trainer.step,
        "skipped_steps": int(trainer.optimizer.counts[1]),
        "atomjet": atomjet.__version__,
        "torch": torch.__version__,
    }


def _described(trainer: Trainer, frames: Frames, seconds: float) -> str:
    train, config = trainer.train, trainer.config
    ends = [f"{limit:g} {unit}" for limit, unit in ((config.epochs, "epochs"), (config.max_minutes, "min")) if limit]
    return (
        f"{len(train)} training frames of {len(frames)} ({int(train.sizes.sum())} atoms, {int(train.edges.sum())} edges; "
        f"on {trainer.ranks.device} in {seconds:.1f} s), {trainer.ranks.size} process(es), "
        f"{sum(p.numel() for p in trainer.model.parameters()):,} weights, "
        f"{trainer.batches_per_epoch} steps of {config.batch_size} frames an epoch, until {' or '.join(ends)}"
    )


def _print_errors(found: dict[str, Errors]) -> None:
    for name, e in found.items():
        relative = ""
        if "force_cosine" in e:
            relative = f", cosine {e['force_cosine']:.4f}, {e['force_mae_over_zero']:.3f} of predicting zero"
        if "stress_mae_meV_A3" in e:
            relative += f", stress MAE {e['stress_mae_meV_A3']:.3g} meV/Å³"
        print(
            f"{name}: {e['frames']} frames, energy MAE {e['energy_mae_meV_atom']:.2f} meV/atom, "
            f"force MAE {e['force_mae_meV_A']:.1f} RMSE {e['force_rmse_meV_A']:.1f} meV/Å" + relative
        )


def _say(ranks: Ranks, text: str) -> None:
    if ranks.first:
        print(text, flush=True)
