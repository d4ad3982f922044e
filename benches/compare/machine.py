"""On what figures were taken."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def machine(work: Path):
    """The processor, its instructions that kernels ask for, memory and file system."""
    cpu = Path("/proc/cpuinfo").read_text()
    field = lambda name: next(
        (line.split(":")[1].strip() for line in cpu.splitlines() if line.startswith(name)), ""
    )
    flags = field("flags").split()
    wanted = {
        "avx2": "AVX2",
        "avx512f": "AVX-512",
        "avx512_vnni": "VNNI",
        "avx_vnni": "AVX-VNNI",
        "amx_int8": "AMX",
    }
    return {
        "cpu": field("model name") or platform.processor(),
        "with": [name for flag, name in wanted.items() if flag in flags],
        "without": [] if "avx512f" in flags else ["AVX-512"],
        "cores": len(os.sched_getaffinity(0)),
        "memory": memory_total(),
        "file_system": file_system(work),
        "system": f"Linux {platform.release().split('-')[0]}",
    }


def memory_total():
    """Bytes of the machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def room():
    """Bytes that one process may take: what leaves the rest of the machine alive."""
    return memory_total() * 9 // 10


def file_system(work: Path):
    """The kind of file system that a folder is on."""
    mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    above = [(len(at), kind) for at, kind in mounts if work.resolve().is_relative_to(at)]
    return max(above)[1]


def own_version(package):
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def version_in(python, package):
    """The version of a package that another Python has, if it has it."""
    program = f"from importlib.metadata import version; print(version({package!r}))"
    found = subprocess.run([str(python), "-c", program], capture_output=True, text=True)
    return found.stdout.strip() if found.returncode == 0 else None
