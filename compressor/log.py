"""The tool's logger: what a job chose and met, for people; cli.py shows it on stderr."""

from __future__ import annotations

import logging

log = logging.getLogger("compressor")
