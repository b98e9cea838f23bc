"""Proof that the tests find mistakes: faults that are planted one by one, and must be caught.

A fault is a small change of the source that somebody could make. ``python -m tests.faults``, or
``make test-faults``, plants each in a copy of the tree (build/faults/tree), builds what it touches,
runs the tests of its primitive and its losses, and names the test that failed. In the end these
tests must pass in a copy without a fault. The exit status is 1 if a fault was not caught, or only
in a later tier than the catalogue says.

    python -m tests.faults                  all of them
    python -m tests.faults NAME ...         some of them
    python -m tests.faults --clean          all tests that they run, without a fault
    python -m tests.faults --publish        all of them, and writes RESULTS.md

``fault.py`` says what a fault is, ``catalogue.py`` and ``catalogue_native.py`` list them, and
``planting.py`` has the copies. ``RESULTS.md`` is what the last whole run found.
"""
