"""Serves the stages of a model with Ray Serve: `serve run --working-dir . app:build model=FILE stages=2`."""

import asyncio
import json
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import BaseModel
from ray import serve
from ray.exceptions import RayActorError, RayTaskError
from ray.serve.metrics import Gauge
from stage import LOST, Stage
from starlette.responses import JSONResponse, StreamingResponse


class Settings(BaseModel):
    """`model` is the path of the export on every host, as `--output` had it. Prompt and answer of a request
    have at most `tokens`. Up to `requests` run at once, in batches of up to `rows` that come within
    `wait_seconds`, and up to `queue` wait. Caches that nobody uses are freed after `idle_seconds`.
    `end_tokens` end an answer; these are the released models'."""

    model: str
    stages: int
    threads: int = 1
    tokens: int = 4096
    requests: int = 8
    rows: int = 4
    queue: int = 64
    wait_seconds: float = 0.02
    idle_seconds: float = 600
    end_tokens: list[int] = [199999, 200002, 200012]


class Replica:
    """A stage on the host that has its resource."""

    def __init__(self, *arguments):
        # One run at a time, and answers to health checks meanwhile.
        self.thread = ThreadPoolExecutor(1)
        self.stage = Stage(*arguments)
        self.gauge = Gauge("stage_reserved_positions", "Positions in caches that running batches may take.")

    async def call(self, name, *arguments):
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.thread, self.run, getattr(self.stage, name), arguments)

    def run(self, method, arguments):
        try:
            return method(*arguments)
        finally:
            self.gauge.set(self.stage.reserved())


@dataclass(eq=False)
class Request:
    prompt: list
    left: int


class Engine:
    """Gathers requests in batches, and leads each batch through the stages, step by step."""

    def __init__(self, settings, *stages):
        self.settings, self.stages, self.vocabulary = settings, stages, None
        self.batched = serve.batch(
            max_batch_size=settings.rows,
            batch_wait_timeout_s=settings.wait_seconds,
            max_concurrent_batches=settings.requests,
        )(self.run)

    async def __call__(self, http):
        """Takes JSON of `prompt`, ids of tokens, and `max_tokens`, and gives a line of JSON for each token."""
        self.vocabulary = self.vocabulary or await self.stages[-1].call.remote("vocabulary")
        try:
            body = await http.json()
            prompt, count = body["prompt"], body["max_tokens"]
            is_valid = count > 0 and prompt and all(token in range(self.vocabulary) for token in prompt)
        except (KeyError, TypeError, ValueError):
            is_valid = False
        if not is_valid:
            sentence = f"`prompt` has to be a list of tokens below {self.vocabulary}, and `max_tokens` above 0."
            return JSONResponse({"error": sentence}, 400)
        if len(prompt) + count > self.settings.tokens:
            sentence = f"`prompt` and `max_tokens` are {len(prompt) + count} tokens; {self.settings.tokens} fit."
            return JSONResponse({"error": sentence}, 400)
        return StreamingResponse(self.lines(Request(prompt, count)), media_type="application/x-ndjson")

    async def lines(self, request):
        try:
            async for token, is_last in self.batched(request):
                yield json.dumps({"token": token}) + "\n"
                if is_last:
                    break
        except RuntimeError as error:
            yield json.dumps({"error": str(error)}) + "\n"
        finally:
            request.left = 0

    async def run(self, requests):
        """Runs a batch, and gives each request a token in every step until it has all."""
        batch, rows, live = uuid.uuid4().hex, None, requests
        longest = max(len(request.prompt) for request in requests)
        reserved = len(requests) * (longest + max(request.left for request in requests))
        ids, mask = np.zeros((2, len(requests), longest), np.int64)
        for row, request in enumerate(requests):
            ids[row, longest - len(request.prompt) :] = request.prompt
            mask[row, longest - len(request.prompt) :] = 1
        try:
            while live:
                tokens = await self.step(batch, ids, mask, rows, reserved)
                for request, token in zip(live, tokens):
                    request.left = 0 if token in self.settings.end_tokens else max(request.left - 1, 0)
                found = {request: (int(token), not request.left) for request, token in zip(live, tokens)}
                yield [found.get(request, StopIteration) for request in requests]
                rows = [row for row, request in enumerate(live) if request.left]
                live = [live[row] for row in rows]
                ids, mask = tokens[rows, None], np.pad(mask[rows], ((0, 0), (0, 1)), constant_values=1)
        finally:
            for stage in self.stages:
                stage.call.remote("free", batch)

    async def step(self, batch, ids, mask, rows, reserved):
        """The next token of each row."""
        value, calls = {"input_ids": ids}, []
        for stage in self.stages:
            # What a stage gives goes to the next one's host, and not through this one.
            value = stage.call.remote("step", batch, value, mask, rows, reserved)
            calls.append(value)
        try:
            return await value
        except Exception:
            for number, call in enumerate(calls, 1):
                await answered(number, call)
            raise


async def answered(number, call):
    """Waits for a stage, and says what is wrong with it."""
    try:
        await call
    except RayActorError:
        raise RuntimeError(f"Stage {number}: {LOST}") from None
    except RayTaskError as error:
        raise RuntimeError(f"Stage {number}: {error.cause}") from None


def build(settings: Settings):
    path = Path(settings.model)
    # A short prompt beside a long one is padded, to at most twice what a request may have.
    limits = 2 * settings.requests * settings.tokens, settings.idle_seconds
    stages = []
    for number in range(1, settings.stages + 1):
        name = f"stage-{number}"
        file = path.with_name(f"{path.stem}.{name}-of-{settings.stages}.onnx")
        place = {"num_cpus": settings.threads, "resources": {name: 1}}
        stage = serve.deployment(Replica, name=name, ray_actor_options=place, max_ongoing_requests=1000)
        stages.append(stage.bind(str(file), settings.threads, *limits))
    engine = serve.deployment(
        Engine,
        ray_actor_options={"num_cpus": 0},
        max_ongoing_requests=settings.requests,
        max_queued_requests=settings.queue,
    )
    return engine.bind(settings, *stages)
