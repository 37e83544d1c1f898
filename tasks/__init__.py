"""The middle floor: what is done, one module a capability.

Pure `plan_*` functions decide; plain functions do it, and a service can import and call them in milliseconds. Nothing
here knows Prefect's runs: where work goes in batches, a flow wraps the plain function in a task.
"""
