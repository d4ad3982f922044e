"""Serves stages by `examples/ray` on this machine alone.

Reads {"example", "model", "stages", "cases": [{"prompt_ids", "ids"}]} from standard input, and prints
what requests got, and which processes were left."""

import json
import os
import secrets
import socket
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

REQUEST = json.load(sys.stdin)
# Ray writes to standard output too.
OUTPUT = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
# Ray leaves no token in the home folder, and sends no statistics. Its processes would start in advance and
# at the lowest priority, which takes minutes beside other work.
os.environ.update(
    PYTHONPATH=REQUEST["example"],
    RAY_AUTH_MODE="token",
    RAY_AUTH_TOKEN=secrets.token_hex(32),
    RAY_enable_metrics_collection="0",
    RAY_prestart_worker_first_driver="0",
    RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S="60",
    RAY_USAGE_STATS_ENABLED="0",
    RAY_worker_niceness="0",
)
sys.path.insert(0, REQUEST["example"])
import app  # noqa: E402
import ray  # noqa: E402
from ray import serve  # noqa: E402

PORT = socket.create_server(("127.0.0.1", 0)).getsockname()[1]
# Four requests run, and eight wait. For a moment those that will run wait too.
SETTINGS = {"requests": 4, "rows": 2, "queue": 8, "tokens": 2000}
POOL = ThreadPoolExecutor(16)


def posted(body):
    return urlopen(Request(f"http://127.0.0.1:{PORT}", json.dumps(body).encode()), timeout=100)


def answer(prompt, count):
    """The tokens that a request gets, and its error."""
    try:
        lines = [json.loads(line) for line in posted({"prompt": prompt, "max_tokens": count})]
    except HTTPError as error:
        return [], error.code
    return [line["token"] for line in lines if "token" in line], lines[-1].get("error")


def together(cases):
    return [POOL.submit(answer, case["prompt_ids"], len(case["ids"])) for case in cases]


def reserved():
    handles = [serve.get_deployment_handle(f"stage-{1 + at}", "default") for at in range(REQUEST["stages"])]
    return [handle.call.remote("reserved").result() for handle in handles]


def freed():
    """Whether all caches are free soon."""
    for _ in range(100):
        if not any(reserved()):
            return True
        time.sleep(0.1)
    return False


def refused(body):
    try:
        return posted(body).read().decode()
    except HTTPError as error:
        return json.load(error)["error"]


def cancelled(case):
    with posted({"prompt": case["prompt_ids"], "max_tokens": 1900}) as stream:
        stream.readline()
        taken = reserved()
    return all(taken) and freed()


def lost(stage, cases):
    """Kills a stage's replica while four requests run and eight wait."""
    running = [posted({"prompt": case["prompt_ids"], "max_tokens": 1900}) for case in cases]
    for stream in running:
        stream.readline()
    waiting = together(cases * 2)
    # The last one finds the queue full.
    time.sleep(1)
    more = answer(cases[0]["prompt_ids"], 1)
    for actor in ray.util.list_named_actors(all_namespaces=True):
        if f"#stage-{stage}#" in actor["name"]:
            ray.kill(ray.get_actor(**actor))
    failed = [json.loads(stream.read().splitlines()[-1]).get("error") for stream in running]
    return {
        "failed": failed,
        "more": more,
        "waiting": [it.result() for it in waiting],
        "next": [it.result() for it in together(cases)],
        "freed": freed(),
    }


def left(folder):
    """Commands of processes of this Ray that still run."""
    for _ in range(100):
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                command = path.read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            found += [command] * (folder in command)
        if not found:
            return []
        time.sleep(0.1)
    return found


def main():
    cases = REQUEST["cases"]
    resources = {f"stage-{1 + at}": 1 for at in range(REQUEST["stages"])}
    with tempfile.TemporaryDirectory(prefix="ray") as folder:
        limits = {"num_cpus": 2, "object_store_memory": 80_000_000, "resources": resources}
        ray.init("local", include_dashboard=False, log_to_driver=False, _temp_dir=folder, **limits)
        try:
            serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": PORT})
            serve.run(app.build(app.Settings(model=REQUEST["model"], stages=REQUEST["stages"], **SETTINGS)))
            results = {
                "together": [it.result() for it in together(cases * 2)],
                "refused": [refused(body) for body in REQUEST["refused"]],
                "cancelled": cancelled(cases[0]),
                "lost": [lost(1 + at, cases) for at in range(REQUEST["stages"])],
            }
        finally:
            serve.shutdown()
            ray.shutdown()
        print(json.dumps({**results, "left": left(folder)}), file=OUTPUT)


main()
