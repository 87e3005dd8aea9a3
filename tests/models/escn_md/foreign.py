"""Write files in fairchem's format without fairchem, to see what becomes of changed ones; and read the golden ones."""

import json
import sys
import types
from contextlib import contextmanager
from pathlib import Path

import torch
from ase import Atoms

from atomjet.models.escn_md import fairchem_zip

GOLDEN = Path(__file__).parent / "golden"
VARIANTS = ("uma_1p2p1", "uma_1p2", "uma_1p1", "uma_limit", "esen_moe", "esen", "esen_mmax1")
BACKENDS = {
    name: ("general",) if name in ("uma_1p1", "esen_mmax1") else ("general", "fast_pytorch") for name in VARIANTS
}
"""UMA 1.1 has lmax 4 here, the last model mmax 1, which `fast_pytorch` is not written for."""


def golden(name):
    return json.loads((GOLDEN / f"{name}.golden.json").read_text())


def atoms_of(entry):
    atoms = Atoms(entry["numbers"], entry["positions"], cell=entry["cell"], pbc=entry["pbc"])
    atoms.info |= {name: entry[name] for name in ("charge", "spin", "task")}
    return atoms


@contextmanager
def pretended(*names):
    """Make classes importable under foreign names, for as long as something is pickled."""
    made, modules = [], []
    for name in names:
        module, _, kind = name.rpartition(".")
        for end in range(1, module.count(".") + 2):
            part = ".".join(module.split(".")[:end])
            if part not in sys.modules:
                sys.modules[part] = types.ModuleType(part)
                modules.append(part)
        made.append(type(kind, (), {"__module__": module}))
        setattr(sys.modules[module], kind, made[-1])
    try:
        yield made
    finally:
        for name in modules:
            del sys.modules[name]


def write(path, model, tasks, weights):
    """A checkpoint as `torch.save` writes fairchem's."""
    with pretended(fairchem_zip.CHECKPOINT) as (kind,):
        content = kind()
        content.__dict__.update(model_config=model, model_state_dict={}, ema_state_dict=weights, tasks_config=tasks)
        torch.save(content, path)
    return path


def write_omegaconf(path, model, tasks, weights, root):
    """The same with configurations in OmegaConf's classes, whose nodes know their parents up to `root`."""
    kinds = ("omegaconf.dictconfig.DictConfig", "omegaconf.listconfig.ListConfig", "omegaconf.nodes.AnyNode")
    with pretended(*kinds, "omegaconf.base.Metadata", fairchem_zip.CHECKPOINT) as (dictionary, array, leaf, data, kind):

        def wrapped(value, parent):
            node = (dictionary if isinstance(value, dict) else array if isinstance(value, list) else leaf)()
            node.__dict__["_parent"] = parent
            node.__dict__["_metadata"] = data()
            node.__dict__["_metadata"].__dict__.update(ref_type=dict, key="x")
            if isinstance(value, dict):
                node.__dict__["_content"] = {key: wrapped(item, node) for key, item in value.items()}
            elif isinstance(value, list):
                node.__dict__["_content"] = [wrapped(item, node) for item in value]
            else:
                node.__dict__["_val"] = value
            return node

        top = wrapped(root | {"model": model, "tasks": tasks}, None)
        parts = top.__dict__["_content"]
        content = kind()
        content.__dict__.update(
            model_config=parts["model"], model_state_dict={}, ema_state_dict=weights, tasks_config=parts["tasks"]
        )
        torch.save(content, path)
    return path
