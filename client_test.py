#!/usr/bin/env python3
"""A small client of agentd, and a check that the daemon keeps its word.

    python3 client_test.py            # against the daemon that runs on this machine

It needs Python 3.9 and nothing else, and speaks only the protocol's fourteen original methods: it is an example to copy
from. The socket is AGENTD_SOCKET_PATH, or agentd.sock in AGENTD_HOME, or ~/.agentd/agentd.sock. What it registers is a
task of its own; other work on the same daemon is not touched. Exit code: 0 when all is as promised, 1 when something is
not, or the daemon cannot be reached.
"""

import json
import os
import socket
import sys
import uuid

# A line of an answer is never longer than this.
ANSWER_BYTES_MAX = 16 * 1024 * 1024


class Refused(Exception):
    """The daemon answered with an error."""

    def __init__(self, error):
        super().__init__(error.get("message", str(error)))
        self.code = error.get("code")


class Client:
    """One connection: one request, one answer, in order."""

    def __init__(self, path, timeout_secs=30):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(timeout_secs)
        self.socket.connect(path)
        self.lines = self.socket.makefile("rb")
        self.last_id = 0

    def call(self, method, **params):
        """Sends one request; returns the result (which may be None), or raises Refused."""
        self.last_id += 1
        request = {"id": self.last_id, "method": method, "params": params}
        self.socket.sendall(json.dumps(request).encode() + b"\n")
        line = self.lines.readline(ANSWER_BYTES_MAX + 1)
        if not line.endswith(b"\n"):
            raise ConnectionError("agentd closed the connection in the middle of an answer")
        answer = json.loads(line)
        if answer.get("id") != self.last_id:
            raise ConnectionError(f"the answer to request {self.last_id} has the id {answer.get('id')}")
        if "error" in answer:
            raise Refused(answer["error"])
        return answer["result"]

    def close(self):
        """Ends the connection. Leases stay as they are until they expire."""
        self.lines.close()
        self.socket.close()


def socket_path():
    """Where the daemon listens."""
    path = os.environ.get("AGENTD_SOCKET_PATH")
    if not path:
        home = os.environ.get("AGENTD_HOME") or "~/.agentd"
        path = os.path.join(home, "agentd.sock")
    return os.path.expanduser(path)


def step(text):
    """Says what has been done."""
    print(f"ok  {text}")


def must(condition, text):
    """Reports a step, or ends the run."""
    if not condition:
        raise AssertionError(text)
    step(text)


def must_refuse(client, text, method, **params):
    """The request must be refused by the state machine."""
    try:
        client.call(method, **params)
    except Refused as refusal:
        must(refusal.code == -32000, f"{text}: {refusal}")
        return
    raise AssertionError(f"{text}: it was accepted")


def check_interface(client):
    """What the daemon says of itself."""
    interface = client.call("DescribeInterface")
    methods = [entry["method"] for entry in interface["methods"]]
    must(interface["protocol"] == "agentd-jsonl-v1", f"DescribeInterface: {interface['protocol']}, {len(methods)} methods")
    for method in ("RegisterTask", "AcquireNextNode", "CompleteNode", "AcquireResourceLock"):
        if method not in methods:
            raise AssertionError(f"{method} is not described")
    health = client.call("Health")
    must(
        health["status"] == "ok" and health["database"] == "ok",
        f"Health: ok, leases last {health['running_timeout_secs']} s",
    )


def check_task(client):
    """A small graph of work: build, then test and document in any order, then release."""
    build, test, document, release = (str(uuid.uuid4()) for _ in range(4))
    task = client.call(
        "RegisterTask",
        goal="client_test.py: try the daemon",
        context={"from": "client_test.py"},
        initial_nodes=[
            {"id": build, "payload_schema": {"step": "build"}},
            {"id": test, "dependencies": [build], "payload_schema": {"step": "test"}},
            {"id": document, "dependencies": [build], "payload_schema": {"step": "document"}},
            {"id": release, "dependencies": [test, document], "payload_schema": {"step": "release"}},
        ],
    )["task_id"]
    step(f"RegisterTask: {task}, four nodes")

    first = client.call("AcquireNextNode", task_id=task, lease_owner="client-a")
    must(first["node_id"] == build, "AcquireNextNode: the first is the one that depends on nothing")
    must(client.call("AcquireNextNode", task_id=task, lease_owner="client-b") is None, "nothing else can begin before it ends: null")

    lease = {"task_id": task, "node_id": build, "lease_id": first["lease_id"]}
    must(client.call("HeartbeatNode", **lease)["ok"] is True, "HeartbeatNode: the lease goes on")
    event = client.call("CommitEvent", action_type="COMPILED", payload={"warnings": 0}, **lease)
    must(bool(event["event_id"]), "CommitEvent: in the journal")
    must_refuse(
        client,
        "a lease that is not the current one changes nothing",
        "CompleteNode",
        task_id=task,
        node_id=build,
        lease_id=str(uuid.uuid4()),
        result_payload={},
    )
    client.call("CompleteNode", result_payload={"binary": "target/app"}, **lease)
    step("CompleteNode: the first node is done")
    must_refuse(client, "the lease ended with the node", "HeartbeatNode", **lease)

    second = client.call("AcquireNextNode", task_id=task, lease_owner="client-a")
    third = client.call("AcquireNextNode", task_id=task, lease_owner="client-b")
    must([second["node_id"], third["node_id"]] == [test, document], "two nodes at once for two clients, in the order registered")
    handed = second["context"]["completed_dependencies"]
    must(
        [(entry["node_id"], entry["result_payload"]) for entry in handed] == [(build, {"binary": "target/app"})],
        "the result of the first is in the context of the next",
    )
    seen = [entry["action_type"] for entry in second["context"]["event_journal"]]
    limit = second["context"]["event_journal_limit"]
    must(limit < 2 or "COMPILED" in seen, "and so is the event")

    client.call("CompleteNode", task_id=task, node_id=test, lease_id=second["lease_id"], result_payload={"passed": 12})
    client.call("FailNode", task_id=task, node_id=document, lease_id=third["lease_id"], error_payload={"reason": "no words"})
    step("CompleteNode and FailNode: one succeeds, one fails")
    must(client.call("AcquireNextNode", task_id=task) is None, "what depends on a failed node does not begin: null")

    status = client.call("TaskStatus", task_id=task)
    found = {node["id"]: node["status"] for node in status["nodes"]}
    wanted = {build: "COMPLETED", test: "COMPLETED", document: "FAILED", release: "PENDING"}
    counts = {name: count for name, count in status["counts"].items() if count}
    must(found == wanted and counts == {"COMPLETED": 2, "FAILED": 1, "PENDING": 1}, f"TaskStatus: {counts}")


def check_locks(path):
    """Two clients want one file."""
    key = f"file:{os.path.realpath(__file__)}#{uuid.uuid4()}"
    one, other = Client(path), Client(path)
    lock = one.call("AcquireResourceLock", resource_key=key, owner="client-a", provider="anthropic", ttl_secs=60)
    must(lock["resource_key"] == key and lock["owner"] == "client-a", "AcquireResourceLock: granted")
    must(other.call("AcquireResourceLock", resource_key=key, owner="client-b", provider="openai") is None, "the other client is not: null")
    held = [entry["owner"] for entry in one.call("ListResourceLocks")["locks"] if entry["resource_key"] == key]
    must(held == ["client-a"], "ListResourceLocks: shows who has it")
    lease = {"resource_key": key, "lease_id": lock["lease_id"]}
    must(one.call("HeartbeatResourceLock", ttl_secs=60, **lease)["ok"] is True, "HeartbeatResourceLock: held for longer")
    must_refuse(other, "nobody else can release it", "ReleaseResourceLock", resource_key=key, lease_id=str(uuid.uuid4()))
    must(one.call("ReleaseResourceLock", **lease)["ok"] is True, "ReleaseResourceLock: given back")
    again = other.call("AcquireResourceLock", resource_key=key, owner="client-b", provider="openai", ttl_secs=60)
    must(again["owner"] == "client-b", "now the other client has it")
    other.call("ReleaseResourceLock", resource_key=key, lease_id=again["lease_id"])
    one.close()
    other.close()


def check_metrics(client):
    """Counters that have moved by now."""
    metrics = client.call("Metrics")
    runtime, database = metrics["runtime"], metrics["database"]
    must(
        runtime["completed_nodes"] >= 2 and runtime["heartbeats"] >= 1 and database["total_tasks"] >= 1,
        f"Metrics: {runtime['acquired_nodes']} nodes acquired, {runtime['completed_nodes']} completed, schema {database['schema_version']}",
    )


def main():
    """Runs every check in turn."""
    path = socket_path()
    try:
        client = Client(path)
    except OSError as error:
        print(f"cannot reach agentd at {path}: {error}", file=sys.stderr)
        print("start it (agentd, or cargo run), or name its socket in AGENTD_SOCKET_PATH", file=sys.stderr)
        return 1
    print(f"connected to {path}")
    try:
        check_interface(client)
        check_task(client)
        check_locks(path)
        check_metrics(client)
    except AssertionError as failure:
        print(f"NOT ok  {failure}", file=sys.stderr)
        return 1
    except (Refused, OSError, ValueError, KeyError, TypeError) as error:
        print(f"NOT ok  {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    finally:
        client.close()
    print("all as promised")
    return 0


if __name__ == "__main__":
    sys.exit(main())
