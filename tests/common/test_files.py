"""Files that others may have written, and locks."""

import errno
import fcntl
import os
from pathlib import Path

import pytest

from common import files
from common.files import Damaged, StorageError, read_csv, read_json, write_csv


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "f.json is empty"),
        (b" \n", "f.json is empty"),
        (b'{"a": 1', "f.json: Expecting"),
        (b"[1]", "f.json holds no JSON object"),
        (b"\0" * 100, "f.json holds zero bytes"),
        (b'{"a": "caf\xe9"}', "f.json: it must be UTF-8"),
        (b'{"a": 1, "a": 1}', "f.json: 'a' is there twice"),
        (b'{"a": NaN}', "f.json: NaN is no number"),
        (b'{"a": 1e400}', "f.json: 1e400 is no number"),
        (b'{"a": ' + b"9" * 5000 + b"}", "f.json: Exceeds the limit"),
        (b'{"a": "\\u0000"}', "f.json: a text in it holds a zero byte"),
        (b'{"a": "\\udce9"}', "f.json: .* surrogates not allowed"),
        (b'{"a":' * 100_000, "f.json: maximum recursion depth"),
        (b'{"a": "1"}', "f.json has no a, or one of another kind"),
        (b'{"a": true}', "f.json has no a, or one of another kind"),
        (b"{}", "f.json has no a, or one of another kind"),
    ],
)
def test_json_that_is_damaged_is_named(tmp_path, content, said):
    path = tmp_path / "f.json"
    path.write_bytes(content)
    with pytest.raises(Damaged, match=f"^{said}") as error:
        read_json(path, a=int)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content", [b'{"a": 1}', b'\xef\xbb\xbf{"a": 1}', b'{"a": 1, "b": null}', b'{"b": [], "a": 1}\r\n']
)
def test_json_that_an_editor_wrote_is_read(tmp_path, content):
    path = tmp_path / "f.json"
    path.write_bytes(content)
    assert read_json(path, a=int, c=dict | None)["a"] == 1


def test_what_is_no_file_is_named(tmp_path):
    with pytest.raises(Damaged, match="No such file"):
        read_json(tmp_path / "none.json")
    with pytest.raises(Damaged, match="Is a directory"):
        read_json(tmp_path)
    with pytest.raises(Damaged, match="too long"):
        read_json(tmp_path / ("x" * 300))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "f.csv: it has no column a"),
        (b"b\n1\n", "f.csv: it has no column a"),
        (b"a,a\n1,2\n", "f.csv has two columns of one name"),
        (b"a,b\n1\n", "f.csv, row 2: 1 cells below 2 columns"),
        (b"a,b\n1,2,3\n", "f.csv, row 2: 3 cells below 2 columns"),
        (b'a,b\n1,"2\n', "f.csv: unexpected end of data"),
        (b"a\n" + b"x" * 200_000 + b"\n", "f.csv: field larger than field limit"),
        (b"a\n\xff\n", "f.csv: it must be UTF-8"),
    ],
)
def test_csv_that_is_damaged_is_named(tmp_path, content, said):
    path = tmp_path / "f.csv"
    path.write_bytes(content)
    with pytest.raises(Damaged, match=f"^{said}"):
        read_csv(path, ["a"])


def test_csv_of_a_spreadsheet_is_read(tmp_path):
    path = tmp_path / "f.csv"
    path.write_bytes(b'\xef\xbb\xbfa,b\r\n1,"x, y"\r\n\r\n')
    assert read_csv(path, ["a"]) == [{"a": "1", "b": "x, y"}]


@pytest.mark.parametrize("number", files.NO_LOCKS)
def test_a_file_system_without_locks_is_said_and_gone_on_with(tmp_path, capsys, monkeypatch, number):
    """As on Lustre that is mounted without -o flock."""

    def refuse(*_):
        raise OSError(number, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with files.alone(tmp_path / "a.lock"):
        pass
    told = capsys.readouterr().out
    assert told == f"note: no lock in {tmp_path}: Function not implemented; do not start the same there twice at once\n"


@pytest.mark.parametrize(("folder", "lock"), [(0o2775, 0o664), (0o755, 0o644)])
def test_whoever_may_write_into_the_folder_may_take_the_lock(tmp_path, folder, lock):
    """Whatever the umask of who was the first."""
    tmp_path.chmod(folder)
    before = os.umask(0o022)
    try:
        with files.alone(tmp_path / "a.lock"):
            assert (tmp_path / "a.lock").stat().st_mode & 0o777 == lock
    finally:
        os.umask(before)


def test_another_fault_of_a_lock_is_raised(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(OSError, match="Input/output"), files.alone(tmp_path / "a.lock"):
        pass


def test_a_file_is_on_the_disk_before_it_has_its_name_and_then_its_folder(tmp_path, monkeypatch):
    """By what is flushed, and whether the file has its name by then."""
    flushed = []

    def fsync(number):
        flushed.append((str(Path(f"/proc/self/fd/{number}").readlink()), (tmp_path / "a").exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    files.write(tmp_path / "a", b"x")
    assert flushed == [(str(tmp_path / f".a.{os.getpid()}.tmp"), False), (str(tmp_path), True)]


def test_a_full_disk_leaves_the_earlier_csv(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write_csv(tmp_path / "c.csv", [["file"], ["é.png"]])
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        write_csv(tmp_path / "c.csv", [["file"], ["b.png"]])
    assert [(path.name, path.read_text("utf-8")) for path in tmp_path.iterdir()] == [("c.csv", "file\né.png\n")]


def test_a_csv_goes_through_links(tmp_path, capfd):
    """Replaced, /dev/stdout's file would be another one than the shell's."""
    (tmp_path / "link.csv").symlink_to(tmp_path / "c.csv")
    write_csv(tmp_path / "link.csv", [["file"]])
    assert (tmp_path / "link.csv").is_symlink()
    assert (tmp_path / "c.csv").read_text() == "file\n"
    write_csv(Path("/dev/stdout"), [["file"]])
    assert capfd.readouterr().out == "file\n"
