import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from atomjet.distill.train import run_train
from atomjet.models.load import read
from tests.distill.labelled import recipe

SCRIPT = """
import sys
from pathlib import Path
from safetensors.torch import save_file
from torch import distributed
from atomjet.distill import trainer
from atomjet.distill.train import run_train
sys.path.insert(0, sys.argv[2])
from tests.distill.labelled import recipe

fit = trainer.Trainer.fit
def fit_and_tell(self):
    done = fit(self)
    save_file(self.optimizer.state(), Path(sys.argv[1]) / f"rank{self.ranks.rank}.safetensors")
    return done
trainer.Trainer.fit = fit_and_tell
run_train(recipe(Path(sys.argv[1]), epochs=3), device="cpu", quiet=True)
"""


def test_two_processes_agree_with_each_other_and_with_one(tmp_path):
    recipe(tmp_path / "two")  # writes the frames before both processes look for them
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    done = subprocess.run(
        [*command, str(script), str(tmp_path / "two"), str(root)],
        env={**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "2 process(es)" in done.stdout
    assert done.stdout.count("training frames") == 1
    first, second = (load_file(tmp_path / "two" / f"rank{rank}.safetensors") for rank in (0, 1))
    for name in first:
        assert torch.equal(first[name], second[name]), name
    alone, _ = read(run_train(recipe(tmp_path / "one", epochs=3), device="cpu", quiet=True))
    together, card = read(tmp_path / "two" / "small.safetensors")
    assert card["training"]["processes"] == 2
    # The same batches, summed in another order.
    for a, b in zip(alone.parameters(), together.parameters(), strict=True):
        assert a.detach().numpy() == pytest.approx(b.detach().numpy(), abs=2e-4)
