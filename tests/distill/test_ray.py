"""Tasks on a real Ray cluster on this machine: a node that is killed, a driver that is killed, tasks that raise or crash."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule

import atomjet
from atomjet.adapters.parquet import write_structures
from atomjet.cli.main import main
from atomjet.distill import bulk as predictions
from atomjet.distill.executors import Processes, RayActors, open_executor
from atomjet.distill.journal import Journal, content_key, read_file
from atomjet.distill.label import run_label
from atomjet.distill.pool import Task
from atomjet.distill.recipe import load_recipe
from atomjet.distill.rounds import run_rounds
from atomjet.distill.sample import run_sample
from atomjet.engine.streams import groups
from atomjet.errors import AtomJetError, ConfigError
from tests.cli.test_bulk import DIES
from tests.distill.test_rounds import labelled, prepare

ray = pytest.importorskip("ray", reason="make test-ray has it")
cluster_utils = pytest.importorskip("ray.cluster_utils")
adapter = pytest.importorskip("atomjet.adapters.ray")

# Ray's own: a socket and files that it leaves to the interpreter's end.
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(300)]

MEMORY = 80_000_000


@pytest.fixture(scope="module")
def cluster():
    """A head that computes nothing and a node with one CPU; tests add others."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": MEMORY}
    started = cluster_utils.Cluster(initialize_head=True, head_node_args=head)
    started.add_node(num_cpus=1, object_store_memory=MEMORY)
    yield started
    started.shutdown()


@pytest.fixture
def executor(cluster):
    with open_executor("ray", workers=1, address=cluster.address) as found:
        yield found


def work(kind: str, number: int) -> dict:
    if kind == "raise":
        raise ValueError(f"cannot\n  do {number}")
    if kind == "exit":
        os._exit(3)
    import torch

    return {"number": number, "threads": os.environ["OMP_NUM_THREADS"], "torch": torch.get_num_threads()}


def refuse() -> None:
    raise ConfigError("this node has no teacher")


def test_every_task_leaves_a_record_whatever_happens_to_it(executor, tmp_path):
    kinds = ["fine", "fine", "exit", "fine", "raise", "fine", "fine"]
    tasks = [Task(content_key(i), (kind, i)) for i, kind in enumerate(kinds)]
    steps = []
    executor.run(work, iter(tasks), tmp_path, lambda: steps.append(1))
    assert len(steps) == len(kinds)
    (path,) = tmp_path.iterdir()  # one writer
    assert len(list(read_file(path))) == len(kinds)
    with Journal(tmp_path) as journal:
        records = [journal[task.key] for task in tasks]
    for number in (0, 1, 3, 5, 6):
        assert records[number] == {"number": number, "threads": "1", "torch": 1}
    assert records[2] == {"error": "not computed on Ray: the actor's process died"}
    assert records[4] == {"error": "ValueError: cannot do 4"}


def test_what_a_node_lacks_ends_the_run_in_one_line(executor, tmp_path):
    with pytest.raises(ConfigError, match=r"^on a node of the Ray cluster: this node has no teacher$"):
        executor.run(work, [Task(b"k" * 16, ("fine", 0))], tmp_path, lambda: None, prepare=refuse)
    assert list(tmp_path.iterdir()) == []


def test_nodes_with_another_version_are_refused(executor, tmp_path, monkeypatch):
    monkeypatch.setattr(adapter, "_version", lambda: "99.0")
    with pytest.raises(
        AtomJetError, match=r"a node of the Ray cluster has AtomJet \S+, this one 99\.0; install one version"
    ):
        executor.run(work, [Task(b"k" * 16, ("fine", 0))], tmp_path, lambda: None)


def test_a_cluster_without_gpus_says_so(cluster):
    with (
        pytest.raises(AtomJetError, match="no node of the Ray cluster has a GPU; leave --device cuda out"),
        open_executor("ray", address=cluster.address, device="cuda"),
    ):
        pass
    assert not ray.is_initialized()


def together(settings, structures, folder: str) -> dict:
    """A prediction; the first one of each node waits until two nodes have come to it."""
    own = Path(folder) / ray.get_runtime_context().get_node_id()
    own.touch()
    while len(list(Path(folder).iterdir())) < 2:
        time.sleep(0.05)
    return predictions.predict_batch(settings, structures)


def small_molecules(count: int) -> list[Atoms]:
    generator = np.random.default_rng(0)
    kinds = [molecule(name) for name in ("CH3CH2OH", "H2O", "CH4", "NH3", "C2H6")]
    frames = [kinds[k % len(kinds)].copy() for k in range(count)]
    for k, atoms in enumerate(frames):
        atoms.positions += generator.normal(0, 0.05, atoms.positions.shape)
        atoms.info["id"] = f"m{k}"
    return frames


def test_a_killed_node_loses_nothing_and_doubles_nothing(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(adapter, "LARGEST_CHUNK", 2)
    doomed = cluster.add_node(num_cpus=1, object_store_memory=MEMORY)
    seen, journals = tmp_path / "nodes", tmp_path / "journals"
    seen.mkdir()
    frames = small_molecules(2000)
    batches = [[frames[k] for k in group] for group in groups(list(map(len, frames)), 100)]
    settings = predictions.ModelSettings("organic-xtb", "cpu", precision="float64")
    tasks = [Task(content_key(n), (settings, group, str(seen))) for n, group in enumerate(batches)]
    done = []

    def advance():
        done.append(1)
        if len(done) == len(batches) // 3:
            cluster.remove_node(doomed, allow_graceful=False)

    with open_executor("ray", workers=2, address=cluster.address) as executor:
        executor.run(together, tasks, journals, advance)
    assert len(list(seen.iterdir())) == 2  # the node that was killed had begun
    (path,) = journals.iterdir()
    keys = [key for key, _, _ in read_file(path)]
    assert len(keys) == len(set(keys)) == len(tasks) == len(done)
    serial = atomjet.load("organic-xtb", device="cpu", precision="float64").predict(frames)
    with Journal(journals) as journal:
        energies = np.concatenate([journal[task.key]["energy"] for task in tasks])
        forces = np.concatenate([journal[task.key]["forces"] for task in tasks])
    assert energies.shape == (2000,)
    np.testing.assert_allclose(
        energies, serial.energy.numpy(), rtol=0, atol=1e-12 * np.abs(serial.energy.numpy()).max()
    )
    np.testing.assert_allclose(forces, serial.forces.numpy(), rtol=0, atol=1e-10)


TEACHER = """
from ase.calculators.emt import EMT

class Pair(EMT):
    def calculate(self, atoms, properties, changes):
        if atoms.get_distance(0, 1) < 2.4:
            raise RuntimeError("two atoms are too near")
        super().calculate(atoms, properties, changes)

def make() -> EMT:
    return Pair()
"""

RECIPE = """
name: pair
output: out
elements: [Cu]
teacher: {calculator: "pair.py:make", options: {}}
sample:
  workers: 1
  free_atoms: false
  split: {validation: 0, test: 0, in_distribution: 0.1}
  structures: {files: [pair.extxyz], frames: 60, displacement: 0.15, relax: false, supercells: null}
label: {workers: 1, shard_size: 20}
"""


def sampled(folder: Path) -> Path:
    folder.mkdir()
    (folder / "pair.py").write_text(TEACHER)
    (folder / "recipe.yaml").write_text(RECIPE)
    ase.io.write(folder / "pair.extxyz", Atoms("Cu2", [[0, 0, 0], [0, 0, 2.5]]))
    recipe = load_recipe(folder / "recipe.yaml", trust=["pair.py"])
    run_sample(recipe, quiet=True)
    return folder


def labels(folder: Path) -> dict[bytes, dict]:
    """Every record of a run's journals, without what depends on the clock; each key once."""
    keys = [key for path in (folder / "out/labels").glob("*.journal") for key, _, _ in read_file(path)]
    assert len(keys) == len(set(keys))
    with Journal(folder / "out/labels") as journal:
        return {key: {name: v for name, v in journal[key].items() if name != "seconds"} for key in keys}


def test_labels_are_those_of_the_pool_even_if_the_driver_is_killed(cluster, tmp_path, capsys):
    alone = sampled(tmp_path / "alone")
    shutil.copytree(alone, tmp_path / "cluster")
    other = tmp_path / "cluster"
    run_label(load_recipe(alone / "recipe.yaml", trust=["pair.py"]), quiet=True)
    words = ["label", str(other / "recipe.yaml"), "--trust", str(other / "pair.py"), "--executor", "ray"]
    words += ["--ray-address", cluster.address, "--workers", "1"]
    driver = subprocess.run([sys.executable, "-c", DIES, *words], capture_output=True)
    assert driver.returncode == -signal.SIGKILL
    assert len(labels(other)) == 2
    capsys.readouterr()
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "2 frames had their label" in out
    assert f"Ray {ray.__version__} at {cluster.address}" in out
    wanted, found = labels(alone), labels(other)
    assert wanted.keys() == found.keys()
    for key, record in wanted.items():
        assert record.keys() == found[key].keys()
        for name, value in record.items():
            np.testing.assert_array_equal(found[key][name], value)
    reasons = [json.loads(line)["reason"] for line in (other / "out/failures.jsonl").read_text().splitlines()]
    assert reasons == ["RuntimeError: two atoms are too near"] * len(reasons) != []
    for shard in (alone / "out/dataset").iterdir():
        assert (other / "out/dataset" / shard.name).read_bytes() == shard.read_bytes()


def test_rounds_on_ray_choose_and_label_what_processes_do(executor, tmp_path):
    first = labelled(prepare(tmp_path / "processes", count=1))
    shutil.copytree(tmp_path / "processes", tmp_path / "ray")
    second = load_recipe(tmp_path / "ray" / "recipe.yaml")
    (own,) = run_rounds(first, "cpu", quiet=True, executor=Processes(1))
    (there,) = run_rounds(second, "cpu", quiet=True, executor=executor)
    assert own == there
    assert own["labelled"] > 0
    for shard in first.round_frames.glob("round-1*.h5"):
        assert (second.round_frames / shard.name).read_bytes() == shard.read_bytes()


def test_predict_writes_the_same_file_on_ray_as_alone(cluster, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("atomjet.adapters.predictions.ATOMS_AT_ONCE", 100)
    frames = [*small_molecules(60), bulk("C", cubic=True), Atoms("Fe", info={"id": "iron"})]
    write_structures(tmp_path / "in.parquet", frames)
    where = ["--device", "cpu", "--precision", "float64", "--skip"]
    on_ray = ["--executor", "ray", "--ray-address", cluster.address, "--workers", "1"]
    for name, more in (("alone", []), ("ray", on_ray), ("processes", ["--executor", "processes", "--workers", "2"])):
        assert (
            main(["predict", str(tmp_path / "in.parquet"), "-o", str(tmp_path / f"{name}.parquet"), *where, *more]) == 1
        )
        assert "skipped row 61" in capsys.readouterr().err
    alone = (tmp_path / "alone.parquet").read_bytes()
    assert (tmp_path / "ray.parquet").read_bytes() == alone
    assert (tmp_path / "processes.parquet").read_bytes() == alone
    ase.io.write(tmp_path / "in.extxyz", frames[:-1])
    for name, more in (("alone", []), ("ray", on_ray)):
        assert (
            main(["predict", str(tmp_path / "in.extxyz"), "-o", str(tmp_path / f"{name}.extxyz"), *where, *more]) == 0
        )
    assert (tmp_path / "ray.extxyz").read_bytes() == (tmp_path / "alone.extxyz").read_bytes()


def test_a_cluster_that_does_not_answer_is_one_line():
    with (
        pytest.raises(
            ConfigError, match=r"^no Ray cluster at 127\.0\.0\.1:1 \(.*\); start one there with `ray start --head`"
        ),
        open_executor("ray", address="127.0.0.1:1"),
    ):
        pass
    with (
        pytest.raises(ConfigError, match=r"ray address 'ray://a:1' is not of the form HOST:PORT"),
        open_executor("ray", address="ray://a:1"),
    ):
        pass


def test_actors_leave_a_cpu_for_others(cluster):
    added = cluster.add_node(num_cpus=3, object_store_memory=MEMORY)
    with open_executor("ray", address=cluster.address) as executor:
        assert isinstance(executor, RayActors)
        assert executor.workers == 3  # of four
    cluster.remove_node(added)
