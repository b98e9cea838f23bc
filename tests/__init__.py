"""The tests."""

from tests.suite import following

following.look_away()
