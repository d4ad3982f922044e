"""Makes models: ours beside `cp`, and the rivals'."""

import os
import shutil
from pathlib import Path
from statistics import median

from machine import room, version_in
from measure import copy_and_sync, empty, size, watch


class Workshop:
    """A folder with the checkpoint and, below, a folder for each model. A model in place
    lies beside the checkpoint's folder, so that its file is below."""

    def __init__(self, home: Path, binary: Path, pairs: int, limit: float):
        self.home, self.binary, self.pairs, self.limit = home, binary, pairs, limit
        self.checkpoint = home / "checkpoint"
        self.copy, self.scratch = home / "copy", home / "scratch"

    def export(self, ours, number):
        """Exports `pairs` times, in turn with `cp` of what was written, and keeps the
        last model; the medians, the highest memory, and where the model is."""
        folder = self.home / f"ours-{number}"
        runs, copies = [], []
        for pair in range(self.pairs):
            # Which of the two comes first changes from pair to pair.
            if pair % 2 == 1 and not ours.in_place:
                copies.append(self.copied(folder))
            model, run = self.export_once(ours, folder)
            if run.failure():
                return {"name": ours.name, "failure": run.failure()}
            runs.append(run)
            if pair % 2 == 0 and not ours.in_place:
                copies.append(self.copied(folder))
        found = {
            "name": ours.name,
            "model": str(model),
            "seconds": median(run.seconds if ours.in_place else run.synced for run in runs),
            "copy": median(copies) if copies else None,
            "own": max(run.own for run in runs),
            "resident": max(run.resident for run in runs),
            "size": model.stat().st_size if ours.in_place else size(folder),
            "written": max(run.written for run in runs),
        }
        if not ours.runs:
            shutil.rmtree(folder)
        return found

    def export_once(self, ours, folder):
        model = folder.with_suffix(".onnx") if ours.in_place else folder / "model.onnx"
        shutil.rmtree(folder, ignore_errors=True)
        model.unlink(missing_ok=True)
        origin = ["--checkpoint", self.checkpoint, "--output", model]
        return model, watch([self.binary, *origin, *ours.arguments.split(), "--quiet"])

    def convert(self, rival, number, python):
        """Lets a rival export once, and copies what it wrote once."""
        folder = self.home / f"rival-{number}"
        empty(folder)
        empty(self.scratch)
        here = Path(__file__).parent
        places = {
            "checkpoint": self.checkpoint,
            "output": folder,
            "scratch": self.scratch,
            "here": here,
        }
        run = watch(
            [python, *(part.format(**places) for part in rival.arguments.split())],
            environment={"HF_HUB_OFFLINE": "1"},
            limit=self.limit,
            memory=room(),
        )
        shutil.rmtree(self.scratch, ignore_errors=True)
        found = {"name": rival.name, "version": version_in(python, rival.package)}
        model = next(folder.rglob("*.onnx"), None)
        if run.failure() or model is None:
            shutil.rmtree(folder)
            return {
                **found,
                "failure": run.failure() or "wrote no model",
                "seconds": run.synced,
                "resident": run.resident,
            }
        return {
            **found,
            "model": str(model),
            "seconds": run.synced,
            "copy": self.copied(folder),
            "own": run.own,
            "resident": run.resident,
            "size": size(folder),
            "written": run.written,
        }

    def copied(self, folder):
        return copy_and_sync(folder, self.copy)

    def verify(self, model, onnxruntime):
        """What `verify` says of a model."""
        arguments = ["verify", model, "--checkpoint", self.checkpoint]
        return watch([self.binary, *arguments, "--onnxruntime", onnxruntime, "--json"])

    def clear(self):
        """Deletes the models, and the checkpoint."""
        for path in self.home.iterdir():
            shutil.rmtree(path) if path.is_dir() else os.remove(path)
