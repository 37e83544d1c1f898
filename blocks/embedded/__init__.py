"""A private PostgreSQL, S3 server and Prefect server for one machine: for trying things, developing and testing."""

from blocks.embedded.stack import Endpoints, Stack

__all__ = ["Endpoints", "Stack"]
