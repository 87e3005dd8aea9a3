"""Locks of outputs: held once, freed by any death, gone when the run is over."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from atomjet.errors import ConfigError
from atomjet.locking import only_run, only_writer

HOLDER = """
import sys, time
from pathlib import Path
from atomjet.locking import only_writer
with only_writer(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(3600)
"""


def test_a_lock_names_its_holder_and_dies_with_it(tmp_path: Path):
    output = tmp_path / "run.traj"
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(output)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    words = rf"another run is working on .*run\.traj \(process {holder.pid} on .+\); wait for it"
    with pytest.raises(ConfigError, match=words), only_writer(output):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    holder.stdout.close()
    assert (tmp_path / "run.traj.lock").read_text().startswith(f"process {holder.pid} on ")  # stale
    with only_writer(output):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_directory_is_made_and_locked(tmp_path: Path):
    directory = tmp_path / "new" / "v1.2"
    words = r"another run is working in .*v1\.2 \("
    with only_run(directory), pytest.raises(ConfigError, match=words), only_run(directory):
        pass
    assert list(directory.iterdir()) == []
    with only_run(directory):
        pass


def test_a_lock_removed_between_opening_and_locking_is_not_held_by_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import fcntl

    from atomjet import locking

    real, calls = fcntl.flock, []

    def flock(file, operation):
        calls.append(1)
        if len(calls) == 1:  # the holder before has just ended
            (tmp_path / "a.traj.lock").unlink()
        return real(file, operation)

    monkeypatch.setattr(locking.fcntl, "flock", flock)
    with only_writer(tmp_path / "a.traj"):
        assert len(calls) == 2
        assert (tmp_path / "a.traj.lock").exists()
        with pytest.raises(ConfigError, match="another run"), only_writer(tmp_path / "a.traj"):
            pass


def test_a_lock_on_a_full_disk_is_named_and_gone(tmp_path: Path):
    code = f"""
import resource
from pathlib import Path
from atomjet.locking import only_writer
resource.setrlimit(resource.RLIMIT_FSIZE, (5, resource.RLIM_INFINITY))  # as a disk that is full
try:
    with only_writer(Path({str(tmp_path / "a.traj")!r})):
        pass
except OSError as error:
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    print(error.filename)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == (f"{tmp_path / 'a.traj.lock'}\n", "")
    assert list(tmp_path.iterdir()) == []
