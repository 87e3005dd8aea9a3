# make demo   two thousand steps of ethanol with the packaged student: trajectory, log and plot under demo/
# make test   the tests, but for the slow ones
# make test-slow   those that take minutes
# make test-fairchem   fairchem itself, in an environment of its own, against ours
# make test-lammps   LAMMPS on one, two and four ranks, in an environment of its own
# make test-ray   label, rounds and predict on a Ray cluster of this machine, of which a node is killed
# make test-hosts   i-PI, matcalc and torch-sim with AtomJet's forces, CHGNet as a teacher, in an environment that lies over .venv
# make test-nvalchemi   nvalchemi-toolkit and its 100 packages, likewise
# make test-wheel   a wheel, installed into an empty environment; PYTHON=python3.12 takes another Python
# make docs   the site of documentation, in site/: every page, link and reference checked
# make test-versions   kernels compiled by every release of Triton that is served; some tests with the newest and the oldest packages
# make bench-page   every suite on the device at hand, then docs/performance.md and its pictures from all results
# make lint   style, types, that imports point down and in no circle, and that functions stay short
# Each first makes .venv and installs there what it needs.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
FAIRCHEM := .venv-fairchem
LAMMPS := .venv-lammps
HOSTS := .venv-hosts
NVALCHEMI := .venv-nvalchemi
DOCS := .venv-docs
WHEEL := .wheel
CONSTRAINTS := -c constraints.txt
VERSIONS := .versions
TRITONS := 3.7 3.8 3.9
INSTALL := $(BIN)/python -m pip install -q -c constraints.txt -e

# Molecules are too small to share between threads, and two test runs side by side would fight over the cores.
export OMP_NUM_THREADS ?= 1

CORES := $(shell $(PYTHON) -c 'import os; print(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())')

# Results are named after the GPU ("NVIDIA H200": h200), or cpu.
GPU := $(shell nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | head -1 | awk '{print tolower($$2)}')
DEVICE := $(or $(GPU),cpu)
SUITES := $(if $(GPU),latency bulk md step neighbors,latency)
MINUTES := 10

.PHONY: bench-page demo test test-slow test-fairchem test-lammps test-ray test-hosts test-nvalchemi test-versions test-wheel docs lint clean

demo: $(VENV)/installed
	mkdir -p demo
	$(BIN)/atomjet md examples/ethanol.xyz --ensemble nvt --steps 1000 -o demo/equilibration.traj --overwrite --device cpu
	$(BIN)/atomjet md demo/equilibration.traj --keep-velocities --steps 2000 -o demo/ethanol.traj \
	  --log-interval 5 --log demo/ethanol.csv --plot demo/ethanol.png --overwrite --device cpu

bench-page: $(VENV)/installed-dev
	@echo "suites $(SUITES) on $(DEVICE), at most $(MINUTES) min each (MINUTES=...); UMA=FILE.pt adds the suite uma"
	for suite in $(SUITES); do $(BIN)/atomjet bench $$suite --max-minutes $(MINUTES) --overwrite --json benchmarks/results/$(DEVICE)-$$suite.json || exit 1; done
	$(if $(UMA),$(BIN)/atomjet bench uma --model $(UMA) --task omat --max-minutes $(MINUTES) --overwrite --json benchmarks/results/$(DEVICE)-uma.json)
	$(BIN)/atomjet bench report

# Neighbouring tests share what their modules prepare, so each worker gets a stretch of them, and takes from the others' at the end.
PYTEST = $(BIN)/python -m pytest -n $(CORES) --dist worksteal

test: $(VENV)/installed-test
	$(PYTEST)

test-slow: $(VENV)/installed-test
	$(PYTEST) -m slow

# Its pins would pull ours about, so it never enters the other environment.
test-fairchem: $(FAIRCHEM)/installed
	$(FAIRCHEM)/bin/python -m pytest tests/models/escn_md/test_fairchem_itself.py

# LAMMPS's licence is another one, so it is never among the packages that AtomJet itself is tested with.
test-lammps: $(LAMMPS)/installed
	$(LAMMPS)/bin/python -m pytest packages/atomjet-lammps/tests tests/docs/test_lammps_tutorial.py

# Ray's packages, 260 MB, lie over .venv too.
test-ray: $(VENV)/installed-test $(VERSIONS)/ray
	PYTHONPATH=$(CURDIR)/$(VERSIONS)/ray $(BIN)/python -m pytest tests/distill/test_ray.py tests/docs/test_docs.py::test_the_tutorial_of_many_machines_runs

test-hosts: $(HOSTS)/installed
	$(HOSTS)/bin/python -m pytest tests/adapters/test_torch_sim.py tests/adapters/test_ipi.py \
	  tests/docs/test_examples.py tests/docs/test_docs.py tests/distill/test_chgnet.py -k 'torch_sim or ipi or argon_elastic or chgnet'

test-nvalchemi: $(NVALCHEMI)/installed
	$(NVALCHEMI)/bin/python -m pytest tests/adapters/test_nvalchemi.py tests/docs/test_docs.py -k nvalchemi

# What a user has: no source beside it, no packages but the ten. `CONSTRAINTS=` takes the newest ones, of PyTorch the build with CUDA.
test-wheel:
	rm -rf $(WHEEL) build
	$(PYTHON) -m venv $(WHEEL)
	$(WHEEL)/bin/python -m pip wheel -q --no-deps -w $(WHEEL)/dist .
	$(WHEEL)/bin/python -m pip install -q $(CONSTRAINTS) $(WHEEL)/dist/*.whl
	cd $(WHEEL) && bin/atomjet info organic-xtb && bin/atomjet predict ../examples/ethanol.xyz --device cpu

# The reference is read from the source, so this environment needs no PyTorch.
docs: $(DOCS)/installed
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --strict --quiet
	$(DOCS)/bin/python docs/check_site.py site

# Each lies over .venv, whose PyTorch, a CPU build, and Triton 3.6 all share: other PyTorches would bring gigabytes of CUDA libraries.
test-versions: $(TRITONS:%=compiled-by-triton-%) tested-with-newest tested-with-oldest

compiled-by-triton-%: $(VENV)/installed-test $(VERSIONS)/triton-%
	PYTHONPATH=$(VERSIONS)/triton-$* $(BIN)/python -c 'import triton; assert triton.__version__.startswith("$*."), triton.__file__'
	PYTHONPATH=$(VERSIONS)/triton-$* $(BIN)/python -m pytest -n $(CORES) -m 'slow or not slow' -k kernels_compile \
	  tests/ops/test_painn_hopper.py tests/neighbors/test_buffered_search.py

tested-with-newest: $(VENV)/installed-test $(VERSIONS)/newest
	PYTHONPATH=$(VERSIONS)/newest $(BIN)/python -m pytest -n $(CORES) tests/data tests/ops tests/adapters/test_ase.py tests/neighbors \
	  -k 'not kernels_compile and not test_buffered_search or search_'
	for python in python3.12 python3.13; do \
	  if $$python -c '' 2> /dev/null; then $$python -W error tests/compiles.py src tests || exit 1; fi; done

tested-with-oldest: $(VENV)/installed-test $(VERSIONS)/oldest
	PYTHONPATH=$(VERSIONS)/oldest $(BIN)/python -m pytest -n $(CORES) tests/data tests/adapters/test_ase.py tests/neighbors/test_neighbors.py \
	  tests/engine/test_engine.py tests/cli/test_main.py

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports
	$(BIN)/python .ci/structure.py

clean:
	rm -rf $(VENV) $(FAIRCHEM) $(LAMMPS) $(HOSTS) $(NVALCHEMI) $(VERSIONS) $(DOCS) $(WHEEL) demo site

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
	$(LAMMPS)/bin/python -m pip install -q -c constraints.txt 'pytest>=8' -e '.[gpu]' -e packages/atomjet-lammps
	touch $@

# Packages of .venv, PyTorch's CPU build among them, are seen from these; pip adds what is missing and moves none of them.
OVER_VENV = $(BIN)/python -m venv $(@D) && echo 'import site; site.addsitedir("$(shell $(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')")' \
  > $$($(@D)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/over_venv.pth

# torch-sim wants Python 3.12, for which no CPU build of PyTorch may be served: .ci/torch_sim_for_3_11.py.
$(HOSTS)/installed: $(VENV)/installed-test .ci/torch_sim_for_3_11.py
	$(OVER_VENV)
	$(HOSTS)/bin/python -m pip install -q $(CONSTRAINTS) ipi==3.3.1 matcalc==0.7.0 chgnet==0.4.2 'nvalchemi-toolkit-ops>=0.5' tables tqdm
	$(HOSTS)/bin/python -m pip install -q --no-deps --ignore-requires-python torch-sim-atomistic==0.6.2
	$(HOSTS)/bin/python .ci/torch_sim_for_3_11.py
	touch $@

$(NVALCHEMI)/installed: $(VENV)/installed-test
	$(OVER_VENV)
	$(NVALCHEMI)/bin/python -m pip install -q $(CONSTRAINTS) nvalchemi-toolkit==0.3.0
	touch $@

# The packages of the extra [docs] alone, without AtomJet's own.
$(DOCS)/installed: pyproject.toml
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"], sep="\n")' > $(DOCS)/packages
	$(DOCS)/bin/python -m pip install -q -r $(DOCS)/packages
	touch $@

# A release that cannot be had stops make: what was not tried is not said to work.
$(VERSIONS)/triton-%: | $(BIN)/python
	$(BIN)/python -m pip install -q --no-deps --target $@.part 'triton==$*.*'
	mv $@.part $@

$(VERSIONS)/ray: pyproject.toml constraints.txt | $(BIN)/python
	rm -rf $@ $@.part
	$(BIN)/python -m pip install -q -c constraints.txt --target $@.part 'ray>=2.60'
	mv $@.part $@

$(VERSIONS)/newest: | $(BIN)/python
	$(BIN)/python -m pip install -q --no-deps --upgrade --target $@.part 'triton==$(lastword $(TRITONS)).*' 'numpy>=2.4' ase vesin
	mv $@.part $@

$(VERSIONS)/oldest: pyproject.toml | $(BIN)/python
	rm -rf $@
	$(BIN)/python -m pip install -q --target $@.part 'numpy==2.0.*' 'ase==3.26.*' 'vesin==0.6.0' 'safetensors==0.5.*' 'pydantic==2.10.*' \
	  'typer==0.15.*' 'rich==13.0.*' 'pyyaml==6.0.1' 'matplotlib==3.9.*'
	mv $@.part $@
