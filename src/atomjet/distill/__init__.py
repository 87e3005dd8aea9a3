"""Distillation: a recipe names molecules and a teacher; sample, label and train make a small student of it."""
