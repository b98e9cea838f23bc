"""Benchmarks: ``make bench`` runs them (run.py), report.py makes the tables."""
