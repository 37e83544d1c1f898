"""Backups of the catalog and of the metadata objects: made, kept, verified, restored, and drilled.

A backup is what its manifest says, in a store of its own; no table is asked which there are.
"""
