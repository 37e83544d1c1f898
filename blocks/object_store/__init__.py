"""Any S3 server: the block, and what is done with it (transfer, presigning, deletion, listing, probing)."""

from blocks.object_store.block import ObjectStore

__all__ = ["ObjectStore"]
