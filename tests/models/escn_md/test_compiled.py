"""Compiled functions of tensors say what they compile."""

import torch

from atomjet.models.escn_md import compiled, node_ops
from atomjet.models.escn_md.blocks import RMSNorm
from atomjet.models.escn_md.compiled import Compiled


def scaled(x, weight):
    return x * weight


def test_a_line_says_what_is_compiled(monkeypatch, capfd):
    """Once for each kind of tensors, however many atoms or edges there are. What compiles, which takes long, is left out."""
    monkeypatch.setattr(compiled, "can_compile", lambda device: True)
    function, weight = Compiled(scaled), torch.tensor([2.0, 3.0])
    function.made = scaled
    for length in (4, 5, 9):
        assert torch.equal(function(torch.ones(length, 2), weight), weight.expand(length, 2))
    line = "compiling eSCN-MD's scaled for cpu, once for this process"
    assert capfd.readouterr().err.splitlines() == [line]
    function(torch.ones(4, 2, dtype=torch.float64), weight)
    function(torch.ones(4, 1), weight)
    assert capfd.readouterr().err.splitlines() == [line, line]


def test_nothing_is_compiled_on_a_cpu(capfd):
    with torch.no_grad():
        node_ops.norm(RMSNorm(2, 4), torch.randn(5, 9, 4))
    assert capfd.readouterr().err == ""
