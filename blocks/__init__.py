"""The ground floor: the outside world (PostgreSQL, S3, an operator's policies) behind Prefect blocks."""

from __future__ import annotations

import logging

from blocks.units import told


class _Told(logging.Filter):
    """URLs in httpx's own log lines, which a service may show: without what can open them."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(told(str(one)) if type(one).__name__ == "URL" else one for one in record.args)
        return True


logging.getLogger("httpx").addFilter(_Told())
