"""Benchmarks: speed, memory and accuracy side by side in one run; comparison of runs and of revisions; profiles."""
