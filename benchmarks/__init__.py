"""Benchmarks: ``make bench`` runs them (run.py), tables/report.py makes the tables."""
