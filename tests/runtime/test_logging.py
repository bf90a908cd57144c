from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from hh_train.runtime.logging import configure_logging


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    logger = logging.getLogger("hh_train")
    before = logger.handlers, logger.level, logger.propagate
    yield
    logger.handlers, logger.level, logger.propagate = before


def test_messages_come_once_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging()
    configure_logging()
    logging.getLogger("hh_train.data").info("read %d clips", 7)
    logging.getLogger("hh_train.data").debug("a detail")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("read 7 clips") == 1
    assert "a detail" not in captured.err


def test_other_ranks_speak_only_of_errors_and_by_name(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "3")
    configure_logging()
    logging.getLogger("hh_train").warning("a warning")
    logging.getLogger("hh_train").error("a failure")
    assert capsys.readouterr().err == "rank 3: a failure\n"


def test_a_level_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="got the log level 'LOUD', wanted one of"):
        configure_logging("LOUD")
