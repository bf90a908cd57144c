"""What a run says on the console: its messages, from rank zero alone, and its errors from anywhere."""

from __future__ import annotations

import logging
import os
import sys

from rich.console import Console
from rich.logging import RichHandler

console = Console(stderr=True)
"""The console of messages and progress bars: standard error, so that results on standard output can be piped."""


def configure_logging(level: str = "INFO") -> None:
    """Sends the messages of `hh_train` to the console, once; ranks above zero are heard from ERROR on.

    Raises ValueError when there is no such level.
    """
    if level.upper() not in logging.getLevelNamesMapping():
        raise ValueError(f"got the log level {level!r}, wanted one of DEBUG, INFO, WARNING, ERROR")
    handler: logging.Handler
    if console.is_terminal:
        handler = RichHandler(console=console, show_path=False, rich_tracebacks=False, log_time_format="[%H:%M:%S]")
        handler.setFormatter(logging.Formatter("%(message)s"))
    else:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S"))
    rank = int(os.environ.get("RANK") or os.environ.get("LOCAL_RANK") or 0)
    if rank:
        handler.setFormatter(logging.Formatter(f"rank {rank}: %(message)s"))
    logger = logging.getLogger("hh_train")
    logger.handlers = [handler]
    logger.setLevel(logging.ERROR if rank else level.upper())
    logger.propagate = False
