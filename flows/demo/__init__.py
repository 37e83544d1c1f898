"""`make demo`: the platform's main job on real video, every claim checked."""

from flows.demo.show import run_demo

__all__ = ["run_demo"]
