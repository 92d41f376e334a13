"""Claims in files: one caller gets each, and the files of ended ones are removed."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from notion_oauth.files.claims import REMOVE_INTERVAL, Claims

TEN_MINUTES = timedelta(minutes=10)
ENDED = timedelta(seconds=-1)


@pytest.mark.slow
@pytest.mark.parametrize("ended", [False, True], ids=["new", "ended"])
def test_one_of_many_processes_gets_a_claim(tmp_path: Path, ended: bool) -> None:
    for name in map(str, range(20)):
        if ended:
            assert Claims(tmp_path).claim(name, ENDED)
        many = [Claims(tmp_path) for _ in range(8)]
        with ThreadPoolExecutor(len(many)) as threads:
            got = list(threads.map(lambda claims, name=name: claims.claim(name, TEN_MINUTES), many))
        assert sorted(got) == [False] * 7 + [True]


def test_files_of_ended_claims_and_of_killed_writers_are_removed_once_a_minute(tmp_path: Path) -> None:
    now = 0.0
    claims = Claims(tmp_path, uptime=lambda: now)
    claims.claim("live", TEN_MINUTES)
    claims.claim("ended", ENDED)
    left_by_killed_writer = tmp_path / "live.0123abcd.tmp"
    left_by_killed_writer.write_bytes(b'{"until')
    for file in tmp_path.iterdir():
        os.utime(file, (time.time() - 60,) * 2)
    claims.claim("next", TEN_MINUTES)
    assert (tmp_path / "ended").exists(), "not yet: removing reads all files"
    now = REMOVE_INTERVAL
    claims.claim("another", TEN_MINUTES)
    assert {file.name for file in tmp_path.iterdir()} == {".lock", "live", "next", "another"}


def test_claim_whose_file_is_damaged_has_ended(tmp_path: Path) -> None:
    (tmp_path / "name").write_bytes(b"\0")
    claims = Claims(tmp_path)
    assert claims.outcome("name") is None
    assert claims.claim("name", TEN_MINUTES)
    assert not claims.claim("name", TEN_MINUTES)
