"""Tests of the drop-in modules against their peers."""
