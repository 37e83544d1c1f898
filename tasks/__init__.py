"""The middle floor: what is done, one module a capability.

Each module has pure `plan_*` functions where something is decided, plain functions that a service can import and call
in milliseconds; where work runs in batches, a thin `@task` function wraps the plain one.
"""
