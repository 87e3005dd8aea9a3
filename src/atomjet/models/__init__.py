"""`Graph` to atomic energies and dE/d(edge vectors), one folder a model family."""
