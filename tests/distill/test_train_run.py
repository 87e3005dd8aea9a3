import itertools
import json
import signal
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ase.io import read as ase_read

from atomjet.distill import trainer
from atomjet.distill.card import markdown
from atomjet.distill.evaluate import evaluate
from atomjet.distill.ranks import Ranks
from atomjet.distill.train import make_trainer, read_sources, run_train
from atomjet.distill.trainer import MOST_SKIPPED, Trainer
from atomjet.engine import load
from atomjet.errors import ConfigError, ModelFileError
from atomjet.locking import only_run
from atomjet.models.load import read
from atomjet.models.painn import PaiNN, PaiNNConfig
from tests.distill.labelled import labelled_frames, recipe

ALONE = Ranks(0, 1, torch.device("cpu"))


def trainer_of(the_recipe) -> Trainer:
    return make_trainer(the_recipe, *read_sources(the_recipe, the_recipe.train.data), ALONE, quiet=True)


def run(the_recipe, **options):
    return run_train(the_recipe, device="cpu", quiet=True, **options)


def lines(the_recipe) -> list[dict]:
    """The log, without what depends on the clock."""
    told = [json.loads(line) for line in (the_recipe.output / "training" / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in told]


def assert_same_weights(a: PaiNN, b: PaiNN) -> None:
    for (name, x), y in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        assert torch.equal(x, y), name


def test_overfits_a_handful_of_real_frames(tmp_path):
    small = recipe(tmp_path, features=24, epochs=150, learning_rate=5e-3, ema_decay=0.98, validation_interval=150)
    model, _ = read(run(small))
    frames = labelled_frames()
    trained = frames.select(frames.split == "train")
    trained.split[:] = "in_distribution"
    (found,) = evaluate(model, trained).values()
    assert found["force_mae_over_zero"] < 0.03
    assert found["energy_mae_meV_atom"] < 3
    assert found["force_cosine"] > 0.99


def test_result_is_the_average_evaluated_by_the_engine(tmp_path):
    small = recipe(tmp_path, epochs=2)
    path = run(small)
    model, card = read(path)
    frames = labelled_frames()
    heldout = frames.select(frames.split == "test")
    prediction = load(path, device="cpu").predict(list(heldout))
    error = np.abs(prediction.forces.numpy() - heldout.forces).mean() * 1e3
    assert error == pytest.approx(card["errors"]["held-out molecules"]["force_mae_meV_A"], rel=1e-4)
    per_atom = np.abs(prediction.energy.numpy() - heldout.energy) / heldout.counts * 1e3
    assert per_atom.mean() == pytest.approx(card["errors"]["held-out molecules"]["energy_mae_meV_atom"], rel=1e-3)
    again = trainer_of(small)
    again.restore()
    assert_same_weights(again.averaged, model)


def terminate_at(patch: pytest.MonkeyPatch, step: int) -> None:
    """Send SIGTERM in this step of a training."""
    losses, steps = trainer.losses, itertools.count(1)

    def counted(*arguments):
        if next(steps) == step:
            signal.raise_signal(signal.SIGTERM)
        return losses(*arguments)

    patch.setattr(trainer, "losses", counted)


@pytest.mark.parametrize("stop_at", [2, 3, 7], ids=["within the first epoch", "between epochs", "within the third"])
def test_resumed_run_equals_undisturbed_run(tmp_path, monkeypatch, stop_at):
    settings = {"epochs": 4, "validation_interval": 2}
    undisturbed, disturbed = recipe(tmp_path / "a", **settings), recipe(tmp_path / "b", **settings)
    expected, _ = read(run(undisturbed))
    with monkeypatch.context() as patch:
        terminate_at(patch, stop_at)
        with pytest.raises(KeyboardInterrupt):
            run(disturbed)
    assert not (disturbed.output / "small.safetensors").exists()
    found, _ = read(run(disturbed))
    assert_same_weights(found, expected)
    assert lines(disturbed) == lines(undisturbed)


def test_lines_after_the_checkpoint_are_dropped(tmp_path):
    small = recipe(tmp_path, epochs=2)
    run(small)
    before = lines(small)
    log = small.output / "training" / "log.jsonl"
    log.write_text(log.read_text() + json.dumps({"step": 99}) + "\n")
    trainer_of(small).restore()
    assert lines(small) == before


def test_signal_handlers_are_put_back(tmp_path):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    run(recipe(tmp_path, epochs=1))
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_resume_refuses_another_run(tmp_path):
    run(recipe(tmp_path, epochs=1))
    with pytest.raises(ConfigError, match=r"made with train.learning_rate = 0.001, not 0.002; give the same again"):
        run(recipe(tmp_path, epochs=1, learning_rate=2e-3))
    with pytest.raises(ConfigError, match="made with student"):
        run(recipe(tmp_path, features=8, epochs=1))
    read(run(recipe(tmp_path, epochs=1, learning_rate=2e-3), resume=False))


def test_two_trainings_in_one_directory_are_refused(tmp_path):
    small = recipe(tmp_path, epochs=1)
    with only_run(small.output), pytest.raises(ConfigError, match=r"another run is working in .* \(process \d+ on "):
        run(small)
    assert not (small.output / "training").exists()


def test_damaged_checkpoint_is_refused(tmp_path):
    small = recipe(tmp_path, epochs=1)
    run(small)
    path = small.output / "training" / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ModelFileError, match="delete it to train from the start"):
        run(small)


@pytest.fixture
def eighths(monkeypatch):
    """A clock that every look at it puts forward by 1/8 s: a step of training takes as long, whatever the machine does."""
    looks = itertools.count()
    monkeypatch.setattr(trainer, "time", SimpleNamespace(monotonic=lambda: 0.125 * next(looks)))


def test_time_limit_ends_the_run_annealed(tmp_path, eighths):
    small = recipe(tmp_path, epochs=None, max_minutes=0.05)
    run(small)
    last = lines(small)[-1]
    assert last["learning_rate"] == pytest.approx(1e-6, abs=1e-7)
    told = json.loads((small.output / "training" / "log.jsonl").read_text().splitlines()[-1])
    assert told["seconds"] == 3.0


def test_a_schedule_of_minutes_goes_on_where_it_was(tmp_path, monkeypatch, eighths):
    small = recipe(tmp_path, epochs=None, max_minutes=0.04)
    with monkeypatch.context() as patch:
        terminate_at(patch, 11)
        with pytest.raises(KeyboardInterrupt):
            run(small)
    again = trainer_of(small)
    again.restore()
    assert again.seconds == 14 / 8  # eleven steps, and three ends of epochs
    assert again.progress() == again.seconds / 2.4
    falling = 0.5 * (1 + np.cos(np.pi * (again.progress() - 0.02) / 0.98))
    assert again.learning_rate() == pytest.approx(1e-6 + (1e-3 - 1e-6) * falling)
    run(small)
    told = [json.loads(line) for line in (small.output / "training" / "log.jsonl").read_text().splitlines()]
    assert 2.4 <= told[-1]["seconds"] <= 2.4 + 2 / 8  # a step, and the end of an epoch
    assert [line["step"] for line in told] == sorted({line["step"] for line in told})


def test_learning_rate_rises_then_falls(tmp_path):
    trainer = trainer_of(recipe(tmp_path, epochs=100, warmup=0.1, learning_rate=1e-2, final_learning_rate=1e-4))
    rates = []
    for step in range(trainer.batches_per_epoch * 100 + 1):
        trainer.step = step
        rates.append(trainer.learning_rate())
    top = int(np.argmax(rates))
    assert rates[0] > 0
    assert np.all(np.diff(rates[: top + 1]) >= 0)
    assert np.all(np.diff(rates[top:]) <= 0)
    assert max(rates) == pytest.approx(1e-2)
    assert rates[-1] == pytest.approx(1e-4)
    assert top == pytest.approx(0.1 * len(rates), abs=2)


def test_no_frame_and_no_molecule_leaks(tmp_path):
    small = recipe(tmp_path, epochs=1)
    trainer, frames = trainer_of(small), labelled_frames()
    seen = trainer.train.frames
    assert set(seen.split) == {"train"}
    assert len(seen) == 24
    assert set(seen.molecule).isdisjoint(frames.molecule[frames.split == "test"])
    assert trainer.validation is not None
    assert set(trainer.validation.frames.split) == {"in_distribution"}
    # Nonsense in all other splits changes neither reference energies nor weights.
    expected, _ = read(run(small))
    spoiled = recipe(tmp_path / "spoiled", epochs=1)
    import ase.io

    structures = ase_read(spoiled.output / "frames.extxyz", ":")
    for atoms in structures:
        if atoms.info["split"] != "train":
            atoms.calc.results["energy"] += 1000.0
            atoms.calc.results["forces"] *= -5.0
    ase.io.write(spoiled.output / "frames.extxyz", structures)
    found, _ = read(run(spoiled))
    assert_same_weights(found, expected)


def test_steps_that_cannot_be_taken_end_the_run(tmp_path):
    trainer = trainer_of(recipe(tmp_path, epochs=40))
    trainer.train.forces[:] = float("nan")
    with pytest.raises(ConfigError, match=rf"gradient was not finite in the last {MOST_SKIPPED}"):
        trainer.fit()


def test_unusable_data_are_refused(tmp_path):
    small = recipe(tmp_path, epochs=1)
    import ase.io

    structures = ase_read(tmp_path / "frames.extxyz", ":")
    for atoms in structures:
        atoms.info["split"] = "test"
    ase.io.write(tmp_path / "frames.extxyz", structures)
    with pytest.raises(ConfigError, match="none of the 36 frames belongs to the training split"):
        run(small)
    with pytest.raises(ConfigError, match="no training frame has Hessian rows"):
        run(recipe(tmp_path / "rows", epochs=1, hessian_weight=1.0))


def test_card_has_every_field(tmp_path):
    path = run(recipe(tmp_path, epochs=1))
    model, card = read(path)
    assert set(card) == {
        *(
            "name",
            "summary",
            "elements",
            "teacher",
            "data",
            "training",
            "errors",
            "force_mae_meV_A",
            "hardest_molecules",
            "shortest_distances",
            "closest_pairs",
            "limits",
            "licence",
        ),
    }
    assert card["elements"] == ["H", "C", "O"]
    assert card["licence"] == "MIT"
    assert card["data"]["seed"] == 3
    assert {"calculator", "version", "options"} <= set(card["teacher"])
    assert card["data"]["frames"] == {"in_distribution": 8, "test": 4, "train": 24}
    assert card["training"]["epochs"] == 1
    assert card["training"]["settings"]["batch_size"] == 8
    expected = {
        *("frames", "atoms", "energy_mae_meV_atom", "energy_rmse_meV_atom", "force_mae_meV_A", "force_rmse_meV_A"),
        *("force_cosine", "force_mae_over_zero"),
    }
    for group in ("held-out molecules", "training molecules, held-out frames", "held-out molecules, displaced"):
        assert set(card["errors"][group]) == expected
    assert all(isinstance(limit, str) for limit in card["limits"])
    assert len(card["limits"]) >= 4
    page = path.with_suffix(".md").read_text()
    assert page == markdown(card)
    assert "| held-out molecules | 4 |" in page
    assert "MIT" in page
    assert model.elements == (1, 6, 8)
    assert (path.parent / "training" / "parity.png").stat().st_size > 10_000
    assert (path.parent / "training" / "learning_curve.png").stat().st_size > 10_000


def test_errors_of_a_model_that_says_nothing():
    frames = labelled_frames()
    model = PaiNN(PaiNNConfig(features=4, layers=1, num_radial=3))
    torch.nn.init.zeros_(model.readout[2].weight)
    found = evaluate(model, frames)["held-out molecules"]
    heldout = frames.select(frames.split == "test")
    assert found["force_mae_over_zero"] == pytest.approx(1.0)
    assert found["force_cosine"] == 0.0
    assert found["force_rmse_meV_A"] == pytest.approx(np.sqrt((heldout.forces**2).mean()) * 1e3, rel=1e-5)
    assert found["energy_mae_meV_atom"] == pytest.approx(np.abs(heldout.energy / heldout.counts).mean() * 1e3, rel=1e-5)
    assert found["frames"] == 4
    assert found["atoms"] == 24


def test_data_without_held_out_frames_still_give_a_model(tmp_path, monkeypatch, capsys):
    small = recipe(tmp_path, epochs=1)
    import ase.io

    structures = [a for a in ase_read(tmp_path / "frames.extxyz", ":") if a.info["split"] == "train"]
    ase.io.write(tmp_path / "frames.extxyz", structures)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)  # a machine without matplotlib
    _, card = read(run(small))
    assert card["errors"] == {}
    assert "errors on unseen molecules are unknown" in card["limits"][-1]
    assert "no pictures" in capsys.readouterr().out
