"""When a folder is to be looked at: with notifications of the system, and without."""

import os
import queue
import threading
import time

import pytest

from meshlib import watch


class Watcher:
    def __init__(self, folder):
        self.stop = threading.Event()
        self.steps = queue.Queue()
        self._thread = threading.Thread(target=self._run, args=(folder,))
        self._thread.start()

    def _run(self, folder):
        for _ in watch.changes(folder, self.stop):
            self.steps.put(time.monotonic())

    def close(self):
        self.stop.set()
        self._thread.join()

    def quiet(self, seconds=0.3):
        """Drop the steps until there was none for a while."""
        try:
            while True:
                self.steps.get(timeout=seconds)
        except queue.Empty:
            return


@pytest.fixture(params=["notified", "polling"])
def watcher(request, tmp_path, monkeypatch):
    if request.param == "polling":

        def exhausted(*args, **keywords):
            raise OSError("OS file watch limit reached")

        monkeypatch.setattr(watch, "RustNotify", exhausted)
    watcher = Watcher(tmp_path)
    watcher.steps.get(timeout=5)
    yield watcher
    watcher.close()


def edit(path, text="x"):
    path.write_text(text)


def same_size_and_second(path):
    path.write_text("a")
    status = path.stat()
    path.write_text("b")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000))


def rename_over(path):
    path.with_suffix(".tmp").write_text("y")
    os.replace(path.with_suffix(".tmp"), path)


def swap_link(path):
    link = path.parent / "..data"
    (path.parent / "..tmp").symlink_to("elsewhere")
    os.replace(path.parent / "..tmp", link)


@pytest.mark.parametrize(
    "change",
    [edit, same_size_and_second, rename_over, swap_link, os.remove, lambda path: path.parent.joinpath("d").mkdir()],
)
def test_a_change_is_told_of_within_a_second(watcher, tmp_path, change):
    (tmp_path / "catalog.yaml").write_text("before")
    watcher.quiet()
    started = time.monotonic()
    change(tmp_path / "catalog.yaml")
    assert watcher.steps.get(timeout=5) - started < 1


def test_a_file_in_a_new_folder_is_told_of(watcher, tmp_path):
    (tmp_path / "more").mkdir()
    watcher.quiet()
    (tmp_path / "more" / "forum.yaml").write_text("x")
    assert watcher.steps.get(timeout=5)


def test_a_folder_that_is_replaced_is_watched_again(watcher, tmp_path):
    folder = tmp_path / "inner"
    folder.mkdir()
    inner = Watcher(folder)
    try:
        inner.quiet()
        (folder / "a.yaml").write_text("x")
        inner.quiet()
        (folder / "a.yaml").unlink()
        folder.rmdir()
        inner.steps.get(timeout=5)
        folder.mkdir()
        inner.quiet()
        started = time.monotonic()
        (folder / "b.yaml").write_text("x")
        assert inner.steps.get(timeout=5) - started < 1
    finally:
        inner.close()


def test_stopping_is_quick(watcher):
    started = time.monotonic()
    watcher.close()
    assert time.monotonic() - started < 0.5


def test_the_lack_of_notifications_is_told_of_once(tmp_path, monkeypatch, caplog):
    def exhausted(*args, **keywords):
        raise OSError("OS file watch limit reached")

    monkeypatch.setattr(watch, "RustNotify", exhausted)
    watcher = Watcher(tmp_path)
    for number in range(3):
        watcher.quiet()
        (tmp_path / f"{number}.yaml").write_text("x")
        watcher.steps.get(timeout=5)
    watcher.close()
    assert [record.message for record in caplog.records] == [
        "no notification of file changes (OS file watch limit reached): looking every 0.05 s"
    ]
