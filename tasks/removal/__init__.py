"""Removal: jobs into the trash and out of it, and space given back, each by a rule that is named."""
