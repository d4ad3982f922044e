"""Times exports, and measures memory and bytes written of any command. Linux only."""

import os
import resource
import select
import shutil
import subprocess
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import median
from types import SimpleNamespace

MEMORY = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def watch(command):
    """Runs a command: seconds until its exit and until `sync` returned, its own peak memory
    (RssAnon) and its peak RSS, bytes written, and the last line of errors if it failed. Its
    allocations fail beyond nine tenths of the machine's memory, so that the machine survives."""
    os.sync()
    text_file = partial(tempfile.TemporaryFile, "w+", errors="replace")
    with text_file() as output, text_file() as errors:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=output, stderr=errors)
        resource.prlimit(process.pid, resource.RLIMIT_DATA, (MEMORY * 9 // 10,) * 2)
        run = SimpleNamespace(failure=None)
        run.own, run.resident = peak_memory(process.pid)
        run.seconds = time.perf_counter() - start
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        os.sync()
        run.synced = time.perf_counter() - start
        run.written = usage.ru_oublock * 512
        output.seek(0)
        run.output = output.read()
        if process.returncode:
            errors.seek(0)
            message = errors.read().strip() or f"exit status {process.returncode}"
            run.failure = message.splitlines()[-1]
        return run


def peak_memory(pid):
    """Waits for the exit of a process. Samples its memory every 2 ms, after 2 s every
    thousandth of the time that has passed: RssAnon and VmHWM, the peak RSS."""
    own, resident, start = 0, 0, time.perf_counter()
    descriptor, exited = os.pidfd_open(pid), select.poll()
    exited.register(descriptor, select.POLLIN)
    while not exited.poll(max(2, time.perf_counter() - start)):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        fields = dict(line.split(":", 1) for line in lines)
        if "RssAnon" in fields:  # the process has not exited yet
            own = max(own, int(fields["RssAnon"].split()[0]) * 1024)
            resident = int(fields["VmHWM"].split()[0]) * 1024
    os.close(descriptor)
    return own, resident


def copy_seconds(folder: Path):
    """Seconds of `cp -r` of a folder, followed by `sync`. The copy is deleted."""
    target = folder.with_name("copy")
    os.sync()
    start = time.perf_counter()
    subprocess.run(["cp", "-r", folder, target], check=True)
    os.sync()
    seconds = time.perf_counter() - start
    shutil.rmtree(target)
    return seconds


def run_export(export, program: Path, folder: Path, pairs=1):
    """Exports `pairs` times, alternating with `cp` of the result. Gives medians of times,
    maxima of memory and the path of the last model, which stays."""
    # In place, the checkpoint has to be in a folder below the model.
    model = folder.with_suffix(".onnx") if export.in_place else folder / export.model
    places = {name: folder.with_name(name) for name in ("checkpoint", "cache")}
    places |= {"folder": folder, "model": model, "here": Path(__file__).parent}
    command = [program, *(part.format(**places) for part in export.arguments.split())]
    runs, copies = [], []
    for pair in range(pairs):
        copy_first = pair % 2 == 1
        if copy_first and not export.in_place:
            copies.append(copy_seconds(folder))
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        model.unlink(missing_ok=True)
        runs.append(watch(command))
        models = [path for path in (model, *folder.rglob("*.onnx")) if path.exists()]
        if runs[-1].failure or not models:
            return {"name": export.name, "failure": runs[-1].failure or "wrote no model"}
        if not copy_first and not export.in_place:
            copies.append(copy_seconds(folder))
    files = [model] if export.in_place else folder.rglob("*")
    return {
        "name": export.name,
        "model": str(models[0]),
        "seconds": median(run.seconds if export.in_place else run.synced for run in runs),
        "copy": median(copies) if copies else None,
        "size": sum(path.stat().st_size for path in files if path.is_file()),
        **{name: max(vars(run)[name] for run in runs) for name in ("own", "resident", "written")},
    }
