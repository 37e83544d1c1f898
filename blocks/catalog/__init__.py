"""PostgreSQL, the truth about every byte: the block, the tables, and the statements that change them."""

from blocks.catalog.block import CatalogDatabase

__all__ = ["CatalogDatabase"]
