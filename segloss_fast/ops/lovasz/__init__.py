"""Lovász losses of errors per voxel and class."""
