#!/usr/bin/env python3
"""Agent B ("codex", by OpenAI): Python and nothing else. agent_b.py FILE"""

import json
import os
import socket
import sys
import time

THINKING_SECS = float(os.environ.get("THINKING_SECS", "1"))


def say(text):
    """A line of the story."""
    print(f"codex  | {text}", flush=True)


class Agentd:
    """A connection on which one request is sent after the other."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.lines = self.socket.makefile("rb")

    def call(self, method, **params):
        """The result of one request, which may be None."""
        self.socket.sendall(json.dumps({"id": 1, "method": method, "params": params}).encode() + b"\n")
        answer = json.loads(self.lines.readline())
        if "error" in answer:
            raise SystemExit(f"codex  | was refused: {answer['error']['message']}")
        return answer["result"]


def main():
    """Adds a line to the file when it is this agent's turn."""
    # The same key as everybody else's: the canonical path.
    file = os.path.realpath(sys.argv[1])
    key = f"file:{file}"
    agentd = Agentd(os.environ["AGENTD_SOCKET_PATH"])
    wish = {"resource_key": key, "owner": "codex", "provider": "openai", "ttl_secs": 60, "metadata": {"why": "add a footnote"}}

    say(f"wants {file}")
    lock = agentd.call("AcquireResourceLock", **wish)
    if lock is None:
        holders = [held for held in agentd.call("ListResourceLocks")["locks"] if held["resource_key"] == key]
        who = f"{holders[0]['owner']} ({holders[0]['provider']}) has it" if holders else "somebody had it a moment ago"
        say(f"got null: {who}. Waits in line")
    while lock is None:
        lock = agentd.call("AcquireResourceLock", wait_secs=30, **wish)
    say("has the lock")

    # Read again under the lock: the file is not what it was.
    with open(file, encoding="utf-8") as current:
        content = current.read()
    say(f"has read {content.count(chr(10))} lines and thinks")
    time.sleep(THINKING_SECS)
    with open(f"{file}.codex", "w", encoding="utf-8") as changed:
        changed.write(content.rstrip("\n") + "\n- codex was here\n")
    os.replace(f"{file}.codex", file)
    say("has written")

    agentd.call("ReleaseResourceLock", resource_key=key, lease_id=lock["lease_id"])
    say("has given the lock back")


if __name__ == "__main__":
    main()
