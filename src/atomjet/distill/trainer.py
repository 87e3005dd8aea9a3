"""The training loop: steps, validation, checkpoints, the end of the schedule or of the time.

The host never waits for the device in a step: losses add up there, and every `HEARTBEAT` steps (and before anything is decided)
the host looks at them. No random state is carried from step to step: the order of an epoch and the draws of a step are functions of
the seed, epoch and step, so a resumed run sees exactly the batches of an undisturbed one.
"""

from __future__ import annotations

import copy
import hashlib
import json
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from atomjet.distill.batches import FrameStore, draws_per_epoch, epoch_order
from atomjet.distill.checkpoint import read_checkpoint, write_checkpoint
from atomjet.distill.compiled import CompiledLoss
from atomjet.distill.evaluate import Errors, errors, predict
from atomjet.distill.loss import losses
from atomjet.distill.optimizer import FlatAdamW
from atomjet.distill.ranks import Ranks
from atomjet.distill.schedule import WHOLE, Schedule, Stage
from atomjet.distill.train_config import TrainConfig
from atomjet.distill.training_log import TrainingLog
from atomjet.errors import ConfigError
from atomjet.models.painn import PaiNN
from atomjet.ops.matrix_products import matrix_products
from atomjet.progress import track
from atomjet.stopping import stop_signals

HEARTBEAT = 20
"""Steps between two looks of the host at the device."""

MOST_SKIPPED = 20
"""Steps in a row that may be skipped because their gradient is not finite."""

MAY_CHANGE = {
    "validation_interval",
    "validation_frames",
    "checkpoint_minutes",
    "data",
    "target_force_mae",
    "seed",
    "seeds",
}
"""Settings that a resumed run may change; data and seed have a fingerprint of their own."""

NEXT_STAGE = {"training frames", "train.epochs", "train.max_minutes"}
"""Entries of a run's fingerprint that may differ between a stage and the one before."""


class Trainer:
    """Trains `model` in place; `averaged` is the running average that counts.

    Args:
        model: on the device of `ranks`, with its reference energies.
        train: training frames.
        weights: (F,) appearances of each frame per epoch.
        validation: frames to watch, or None.
        config: settings.
        seed: of the order of the frames.
        folder: where `checkpoint.safetensors` and `log.jsonl` are written.
        ranks: the processes.
        quiet: no progress bar.
        stage: the part of the training that this is.
    """

    def __init__(
        self,
        model: PaiNN,
        train: FrameStore,
        weights: NDArray[np.float64],
        validation: FrameStore | None,
        config: TrainConfig,
        seed: int,
        folder: Path,
        ranks: Ranks,
        quiet: bool = False,
        stage: Stage = WHOLE,
    ) -> None:
        self.stage = stage
        self.train, self.frame_weights, self.validation = train, weights, validation
        self.config, self.seed, self.folder, self.ranks, self.quiet = config, seed, folder, ranks, quiet
        self.model, self.averaged = model, copy.deepcopy(model)
        self.optimizer = FlatAdamW(model, self.averaged, config.weight_decay, config.ema_decay, config.clip_norm)
        ranks.from_first(self.optimizer.weights)
        ranks.from_first(self.optimizer.average)
        # Losses (energy, forces, Hessian, stress, total) and steps since the last line of the log.
        self.sums = torch.zeros(6, device=ranks.device)
        self.epoch = self.batch = self.step = 0
        self.seconds, self.since = 0.0, time.monotonic()
        self.saved_at = 0.0
        self.shown = 0  # how far the progress bar is
        self.interrupted = self.stopping = False  # this rank got a signal; all ranks know that one did
        self.batches_per_epoch = max(1, draws_per_epoch(weights) // config.batch_size)
        self.schedule = Schedule(config, self.batches_per_epoch)
        self.log = TrainingLog(folder / "log.jsonl")
        self.reached = False  # the target
        self.compiled: CompiledLoss | None = None
        if config.compile:
            most = -(-draws_per_epoch(weights) // self.batches_per_epoch)
            self.compiled = CompiledLoss(model, config, train, weights, -(-most // ranks.size))
        if draws_per_epoch(weights) < ranks.size:
            raise ConfigError(f"{draws_per_epoch(weights)} training frames for {ranks.size} processes; start fewer")

    # ------------------------------------------------------------------ the run

    def fit(self) -> bool:
        """Train to the end of the stage; return False where a signal ended it before (a checkpoint is written then)."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.ranks.first:
            for torn in self.folder.parent.rglob(".*.partial"):  # of a run that was killed while it wrote
                torn.unlink(missing_ok=True)
        total, self.shown = self.schedule.length, self._done()
        precision = "high" if self.config.tf32 and self.ranks.device.type == "cuda" else "highest"
        quiet = self.quiet or not self.ranks.first
        with self._signals(), matrix_products(precision), track("training", total, self.shown, quiet) as advance:
            if self.compiled is not None:
                # Before the clock starts: a schedule of minutes must not spend its warmup on the compiler.
                self.compiled(self.train.batch(self.ranks.share(np.arange(min(2 * self.ranks.size, len(self.train))))))
            self.since = time.monotonic()
            while self.progress() < self.stage.until:
                if not self._run_epoch(advance):
                    self.save()
                    return False
            self._log_last()
        self.save()
        return True

    def _run_epoch(self, advance: Any) -> bool:
        """Go on to the end of the epoch or of the run; return False where a signal came."""
        order = epoch_order(self.frame_weights, self.seed, self.epoch)
        batches = np.array_split(order, self.batches_per_epoch)
        while self.batch < len(batches) and self.progress() < self.stage.until:
            self._train_on(batches[self.batch])
            self.step += 1
            self.batch += 1
            if self.step % HEARTBEAT == 0 or self.ranks.size == 1:
                self._agree()
            if self.step % HEARTBEAT == 0:
                self._check_skipped()
                advance(
                    self._done() - self.shown,
                    note=f"step {self.step}, epoch {self.epoch + self.batch / len(batches):.1f}",
                )
                self.shown = self._done()
                if self.seconds - self.saved_at > 60 * self.config.checkpoint_minutes:
                    self.save()
            if self.stopping:
                return False
        if self.batch == len(batches):
            self.epoch, self.batch = self.epoch + 1, 0
        ended = self.progress() >= self.stage.until
        if ended or self.epoch % self.config.validation_interval == 0:
            self._check_skipped()
            if self.validation is not None:
                advance(0, note=f"step {self.step}, computing {len(self.validation)} validation frames")
            found = self.validate()
            self._log(found)
            target = self.config.target_force_mae
            self.reached = bool(target and found) and found["force_mae_meV_A"] <= (target or 0)
            ended = ended or self.reached
        return ended or not self.stopping

    def _train_on(self, indices: NDArray[np.int64]) -> None:
        """One step on the frames of a batch, all ranks together."""
        own = self.ranks.share(np.arange(len(indices)))
        sizes = self.train.sizes[indices]
        batch = self.train.batch(indices[own], frames=len(indices), atoms=int(sizes.sum()))
        if self.config.hessian_weight:
            draws = np.random.default_rng([self.seed, self.epoch, self.batch, 1]).uniform(size=len(indices))
            with_rows = self.train.atoms_with_rows(indices)
            batch = replace(batch, hessian=self.train.hessian(indices[own], draws[own], with_rows))
        if self.compiled is not None and self.compiled.fits(batch):
            total, parts, gradient = self.compiled(batch)
            self.optimizer.gradient.copy_(gradient)
        else:
            total, parts = losses(self.model, batch, self.config)
            total.backward()
        self.ranks.sum(self.optimizer.gradient)
        good = self.optimizer.step(self.learning_rate())
        seen = torch.cat([parts, total.detach()[None], torch.ones_like(parts[:1]) / self.ranks.size])
        self.sums += torch.nan_to_num(seen, nan=0.0, posinf=0.0, neginf=0.0) * good

    # -------------------------------------------------------------- the schedule

    def progress(self) -> float:
        """How much of the run is over, 0 ... 1; 1 where the target is reached."""
        return 1.0 if self.reached else self.schedule.progress(self.step, self.seconds)

    def learning_rate(self) -> float:
        """That of the next step."""
        return self.schedule.learning_rate(self.progress())

    def _done(self) -> int:
        return self.schedule.done(self.step, self.seconds)

    def _agree(self) -> None:
        """All ranks take the clock of the first, and stop where any was interrupted."""
        now = time.monotonic()
        self.seconds, self.since = self.seconds + now - self.since, now
        self.stopping = self.interrupted
        if self.ranks.size > 1:
            mine = [self.seconds if self.ranks.first else 0.0, float(self.interrupted)]
            agreed = self.ranks.sum(torch.tensor(mine, dtype=torch.float64, device=self.ranks.device)).tolist()
            self.seconds, self.stopping = agreed[0], agreed[1] > 0

    def _check_skipped(self) -> None:
        skipped, in_a_row = self.optimizer.counts[1:].tolist()
        if in_a_row >= MOST_SKIPPED:
            raise ConfigError(
                f"step {self.step}: the gradient was not finite in the last {int(in_a_row)} steps ({int(skipped)} in all); "
                f"lower train.learning_rate (now {self.config.learning_rate:g}) or train.clip_norm, or look for frames "
                "with atoms on top of each other"
            )

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Signals to stop end the training with a checkpoint after the step under way; a second ctrl-C ends it at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def interrupt(number: int, frame: Any) -> None:
            if self.interrupted and number == signal.SIGINT:
                raise KeyboardInterrupt
            self.interrupted = True

        before = {number: signal.signal(number, interrupt) for number in stop_signals()}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    # --------------------------------------------------------- validation, files

    def validate(self) -> Errors:
        """Errors of the averaged weights on the validation frames."""
        if self.validation is None:
            return {}
        predicted = predict(self.averaged, self.validation, self.ranks)
        return errors(self.validation, predicted, np.ones(len(self.validation), dtype=bool))

    def _log(self, found: Errors) -> None:
        sums = self.ranks.sum(self.sums.clone()).tolist()
        self.sums.zero_()
        self._agree()
        steps = max(1.0, sums[5])
        names = ("energy_loss_eV_atom", "force_loss_eV_A", "hessian_loss_eV_A2", "stress_loss_eV_atom", "loss")
        line = {
            "step": self.step,
            "epoch": round(self.epoch + self.batch / self.batches_per_epoch, 4),
            "seconds": round(self.seconds, 2),
            "learning_rate": self.learning_rate(),
            **{name: value / steps for name, value in zip(names, sums, strict=False)},
            "skipped_steps": int(self.optimizer.counts[1]),
            **{f"validation_{name}": value for name, value in found.items() if name not in ("frames", "atoms")},
        }
        if self.ranks.first:
            self.log.append(line)

    def _log_last(self) -> None:
        """The last line, where a run was killed between its last checkpoint and that line."""
        missing = self.ranks.first and self.log.last_step() < self.step
        if self.ranks.sum(torch.tensor(float(missing), device=self.ranks.device)) > 0:
            self._log(self.validate())

    @property
    def checkpoint_path(self) -> Path:
        """The last checkpoint."""
        return self.folder / "checkpoint.safetensors"

    def save(self) -> None:
        """Write a checkpoint: weights, average, moments, counts, where in which epoch, seconds, what it was trained on."""
        sums = self.ranks.sum(self.sums.clone())
        self.saved_at = self.seconds
        if self.ranks.first:
            header = {name: getattr(self, name) for name in ("step", "epoch", "batch", "seconds", "reached")}
            write_checkpoint(
                self.checkpoint_path,
                {**self.optimizer.state(), "sums": sums},
                {**header, "run": self._run(), "stage": self.stage.number},
            )
        self.ranks.wait()

    def restore(self) -> None:
        """Go on from the last checkpoint; lines of the log that came after it are dropped.

        Raises:
            ConfigError: it belongs to other data, another student or other settings.
        """
        tensors, header = read_checkpoint(self.checkpoint_path)
        further = header.get("stage", 0) < self.stage.number
        for name, value in self._run().items():
            if header["run"].get(name) != value and not (further and name in NEXT_STAGE):
                raise ConfigError(
                    f"{self.checkpoint_path} was made with {name} = {header['run'].get(name)}, not {value}; "
                    "give the same again, choose another output, or delete it to train from the start"
                )
        self.optimizer.restore(tensors)
        if self.ranks.first:
            self.sums.copy_(tensors["sums"])
        self.step, self.epoch, self.batch = header["step"], header["epoch"], header["batch"]
        if further and self.batch:  # an epoch of frames that are not all of them any more
            self.epoch, self.batch = self.epoch + 1, 0
        self.seconds = self.saved_at = header["seconds"]
        self.reached = header.get("reached", False) and self.config.target_force_mae is not None
        if self.ranks.first:
            # A checkpoint of an epoch's last step is written before the line of that step, which comes once more.
            self.log.drop_from(self.step if self.batch == self.batches_per_epoch else self.step + 1)
        self.ranks.wait()

    def _run(self) -> dict[str, Any]:
        """What must be the same for a run to go on."""
        digest = hashlib.sha256()
        for array in (self.train.frames.ptr, self.train.frames.numbers, self.train.frames.energy, self.frame_weights):
            digest.update(np.ascontiguousarray(array).tobytes())
        settings = self.config.model_dump(mode="json", exclude=MAY_CHANGE)
        return {
            "seed": self.seed,
            "training frames": digest.hexdigest()[:16],
            "student": json.loads(self.model.config.model_dump_json()),
            **{f"train.{name}": value for name, value in settings.items()},
        }
