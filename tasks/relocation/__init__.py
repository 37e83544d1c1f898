"""Relocation: one act, writing an object elsewhere or in another encoding, and the policies that ask for it."""
