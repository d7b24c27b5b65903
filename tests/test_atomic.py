"""Atomic writing: a file is there whole or not at all, and what a killed process leaves goes."""

import os
import socket
import subprocess
import sys
import threading

import pytest

from tlc_jax.files import atomic


@pytest.fixture(autouse=True)
def folders(monkeypatch):
    monkeypatch.setattr(atomic, "_folders", set())
    monkeypatch.setattr(atomic, "_beginning", threading.RLock())  # which an end holds for good


def test_what_the_dead_left_is_removed(tmp_path):
    """By the first to write there; what a living process writes, and what others made, stays."""
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    living = os.getppid()
    names = {
        number: tmp_path / f".{atomic.HOST}-{number}-0123456789ab.tmp"
        for number in (dead.pid, living)
    }
    for path in (*names.values(), tmp_path / ".mine.tmp"):
        path.write_text("half")
    folder = tmp_path / f".{atomic.HOST}-{dead.pid}-ba9876543210.tmp"
    folder.mkdir()
    (folder / "inside").write_text("half")
    atomic.write_atomically(tmp_path / "a", b"whole")
    assert {path.name for path in tmp_path.iterdir()} == {"a", ".mine.tmp", names[living].name}


def test_what_is_begun_is_removed_at_an_end(tmp_path):
    """By a signal: of this process alone."""
    other = tmp_path / f".{atomic.HOST}-{os.getppid()}-0123456789ab.tmp"
    other.write_text("half")
    atomic.temporary(tmp_path / "a").write_text("half")
    atomic.remove_unfinished()
    assert list(tmp_path.iterdir()) == [other]


def test_processes_of_other_machines_are_not_taken_for_dead(monkeypatch):
    """Machines of long names that end in a number, and containers of one machine."""
    there = []
    for name, space in [
        ("node" * 15 + "1", "1"),
        ("node" * 15 + "2", "1"),
        ("node" * 15 + "1", "2"),
    ]:
        monkeypatch.setattr(socket, "gethostname", lambda name=name: name)
        monkeypatch.setattr(os, "readlink", lambda path, space=space: f"pid:[{space}]")
        there.append(atomic.where_numbers_count())
    assert len(set(there)) == 3


def test_nothing_is_begun_after_an_end(tmp_path):
    """By other threads, in the moment that a signal leaves them."""
    atomic.remove_unfinished()
    other = threading.Thread(
        target=atomic.write_atomically, args=(tmp_path / "a", b"whole"), daemon=True
    )
    other.start()
    other.join(0.2)
    assert other.is_alive() and not list(tmp_path.iterdir())
    atomic._beginning.release()
    other.join()
    assert (tmp_path / "a").read_bytes() == b"whole"


def test_a_folder_that_cannot_be_written_to(tmp_path):
    with pytest.raises(OSError, match="No such file"):
        atomic.write_atomically(tmp_path / "missing/a", b"")
