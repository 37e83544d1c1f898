"""The middle floor: what is done, one module a capability.

Each module has pure `plan_*` functions where something is decided, plain functions that a service can import and call
in milliseconds, and nothing of Prefect; `tasks.prefect_tasks` wraps those that run in batches.
"""
