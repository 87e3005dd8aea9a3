"""For those who bring a model family: suites to inherit, and the captured path in plain PyTorch. Needs pytest.

`Conformance` holds for every backend in float64, `CapturedConformance` for every backend that works in buffers of fixed size.
"""

from atomjet.testing.captured import CapturedConformance
from atomjet.testing.plain import Buffered, plain_stages
from atomjet.testing.suite import Conformance

__all__ = ["Buffered", "CapturedConformance", "Conformance", "plain_stages"]
