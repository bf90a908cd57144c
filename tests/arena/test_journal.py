"""What was appended is read back, whatever a kill has left between."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hh_train.arena.journal import Journal


@settings(max_examples=25)
@given(st.lists(st.dictionaries(st.text(), st.none() | st.booleans() | st.integers() | st.text()), max_size=5))
def test_records_come_back_in_order(tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, object]]) -> None:
    journal = Journal(tmp_path_factory.mktemp("journal") / "a" / "rows.jsonl")
    for row in rows:
        journal.append(row)
    assert journal.read() == (rows, 0)


@pytest.mark.parametrize("tear", [1, 4, 8])
def test_a_torn_line_is_passed_over_and_left_where_it_is(tmp_path: Path, tear: int) -> None:
    journal = Journal(tmp_path / "rows.jsonl")
    journal.append({"n": 1})
    journal.append({"n": 22})
    whole = journal.path.read_bytes()
    journal.path.write_bytes(whole[:-tear])
    journal.append({"n": 3})
    rows, num_damaged = journal.read()
    assert rows[0] == {"n": 1} and rows[-1] == {"n": 3}
    assert (len(rows), num_damaged) == ((3, 0) if tear == 1 else (2, 1))  # only the end of the line was missing
    assert journal.path.read_bytes().startswith(whole[:-tear])


@pytest.mark.parametrize("rubbish", [b"[1]\n", b"\xff\xfe\n", b"null\n", b"\x00\x00\x00\n", b"[" * 20_000 + b"\n"])
def test_lines_that_are_no_record_are_counted(tmp_path: Path, rubbish: bytes) -> None:
    journal = Journal(tmp_path / "rows.jsonl")
    journal.path.write_bytes(rubbish + b"\n")
    journal.append({"n": 1})
    assert journal.read() == ([{"n": 1}], 1)


def test_what_was_said_to_be_written_outlives_a_kill(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom pathlib import Path\nfrom hh_train.arena.journal import Journal\n"
        f"journal = Journal(Path({str(tmp_path / 'rows.jsonl')!r}))\n"
        "for n in range(100000):\n    journal.append({'n': n, 'text': 'x' * 500})\n    print(n, flush=True)\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    said = -1
    deadline = time.monotonic() + 30
    for line in writer.stdout:
        said = int(line)
        if said >= 20 or time.monotonic() > deadline:
            break
    os.kill(writer.pid, signal.SIGKILL)
    said = max([said, *map(int, writer.stdout.read().split())])
    writer.wait()
    rows, _ = Journal(tmp_path / "rows.jsonl").read()
    assert [row["n"] for row in rows] == list(range(len(rows)))
    assert len(rows) > said >= 20


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full, a device that is always full")
    (tmp_path / "rows.jsonl").symlink_to("/dev/full")
    with pytest.raises(OSError):
        Journal(tmp_path / "rows.jsonl").append({"n": 1})
