"""The ground floor: the outside world (PostgreSQL, S3, an operator's policies) behind Prefect blocks."""
