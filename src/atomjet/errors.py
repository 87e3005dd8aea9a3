"""What AtomJet says when it cannot do what was asked: the value, the limit, where, and the remedy.

Every error a user can cause is an `AtomJetError` (also a `ValueError`), so that one `except` catches them all.
"""


class AtomJetError(ValueError):
    """Base of every error that a user can cause."""


class StructureError(AtomJetError):
    """A structure that cannot be computed: NaN position, zero cell, overlapping atoms, unsupported element ..."""


class ModelFileError(AtomJetError):
    """A model file that is missing, damaged, of another format, or of an unknown version."""


class BackendError(AtomJetError):
    """A backend, device or precision that cannot serve this model or request."""


class ConfigError(AtomJetError):
    """A recipe, option or argument that does not make sense."""


class TeacherError(AtomJetError):
    """A teacher calculator that cannot be built or that failed."""


class SimulationError(AtomJetError):
    """A simulation or relaxation that was asked for rightly and failed: exploded, or did not converge."""


def first_line(error: Exception) -> str:
    """The gist of a foreign error, on one line."""
    return " ".join(str(error).split())[:200]
