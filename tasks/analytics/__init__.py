"""A day's figures: read as aggregates, shaped here, and written to the schema `analytics` in one transaction."""
