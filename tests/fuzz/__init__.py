"""Random calls of everything public, and of the raw operators: served rightly, or refused clearly.

``make fuzz`` runs them for as long as it is told, each call with a time limit, in a process that
may crash; ``tests/fuzz/test_fuzz.py`` runs some, always the same.
"""
