"""Tensor functions: no atoms, no models."""
