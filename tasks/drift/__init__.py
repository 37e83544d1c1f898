"""Drift: where catalog and store disagree, and bytes that are not what they were; found, judged, mended."""
