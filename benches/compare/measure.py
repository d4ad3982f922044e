"""Runs a program and watches it: wall time, memory, bytes written."""

import os
import resource
import shutil
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

PERIOD = 0.002  # seconds


@dataclass
class Run:
    """What a program did: wall seconds until its end and until all is on the disk, peaks
    of memory in bytes (its own, and with mapped files), bytes given to the file system."""

    seconds: float
    synced: float
    own: int
    resident: int
    written: int
    status: int
    output: str
    errors: str
    stopped: bool

    def failure(self):
        """The sentence with which it failed, if it did."""
        if self.status == 0:
            return None
        if self.stopped:
            return f"stopped after {self.seconds:.0f} s"
        lines = [line.strip() for line in self.errors.splitlines() if line.strip()]
        if self.status < 0:
            return f"ended by signal {-self.status}"
        return lines[-1] if lines else f"ended with status {self.status} and said nothing"


def watch(command, *, request="", environment=None, limit=None, memory=None):
    """Runs a command to its end, or kills it after `limit` seconds; what would take more
    than `memory` bytes of its own is refused to it."""
    os.sync()
    with (
        tempfile.TemporaryFile() as asked,
        tempfile.TemporaryFile() as said,
        tempfile.TemporaryFile() as complained,
    ):
        asked.write(request.encode())
        asked.seek(0)
        start = time.perf_counter()
        process = subprocess.Popen(
            [str(part) for part in command],
            stdin=asked,
            stdout=said,
            stderr=complained,
            env={**os.environ, **(environment or {})},
        )
        if memory:
            resource.prlimit(process.pid, resource.RLIMIT_DATA, (memory, memory))
        peaks = Peaks(process.pid)
        timer = threading.Timer(limit or threading.TIMEOUT_MAX, process.kill)
        timer.start()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        timer.cancel()
        seconds = time.perf_counter() - start
        os.sync()
        synced = time.perf_counter() - start
        own, resident = peaks.end()
        return Run(
            seconds=seconds,
            synced=synced,
            own=own,
            resident=resident,
            written=usage.ru_oublock * 512,
            status=process.returncode,
            output=text(said),
            errors=text(complained),
            stopped=limit is not None and seconds >= limit,
        )


class Peaks(threading.Thread):
    """Samples a process's memory; what is highest between two samples is not seen. Those
    of a long run may be further apart."""

    def __init__(self, pid):
        super().__init__(daemon=True)
        self.path, self.over = f"/proc/{pid}/status", threading.Event()
        self.own = self.resident = 0
        self.start()

    def run(self):
        start = time.perf_counter()
        while not self.over.wait(max(PERIOD, (time.perf_counter() - start) / 1000)):
            try:
                found = memory_of(self.path)
            except (OSError, KeyError):
                return
            self.own = max(self.own, found["RssAnon"])
            self.resident = max(self.resident, found["VmHWM"])

    def end(self):
        self.over.set()
        self.join()
        return self.own, self.resident


def memory_of(path="/proc/self/status"):
    """RssAnon, VmRSS and VmHWM of a process, in bytes."""
    with open(path) as status:
        fields = dict(line.split(":", 1) for line in status)
    return {name: int(fields[name].split()[0]) * 1024 for name in ("RssAnon", "VmRSS", "VmHWM")}


def text(file):
    file.seek(0)
    return file.read().decode(errors="replace")


def copy_and_sync(folder: Path, target: Path):
    """Seconds of `cp` of a folder, followed by `sync`."""
    shutil.rmtree(target, ignore_errors=True)
    os.sync()
    start = time.perf_counter()
    subprocess.run(["cp", "-r", str(folder), str(target)], check=True)
    os.sync()
    seconds = time.perf_counter() - start
    shutil.rmtree(target)
    return seconds


def empty(folder: Path):
    """Makes a folder with nothing in it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def size(folder: Path):
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
