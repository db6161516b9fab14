#!/usr/bin/env python3
"""Four nodes of work, two agents, one language model: a real loop over agentd.

    python3 scripts/deepseek_agent_loop.py            # needs a running agentd and DEEPSEEK_API_KEY
    python3 scripts/deepseek_agent_loop.py --task ID  # goes on with a task that was interrupted

One agent writes a compact Python worker script; at the same time one writes the IPC contract; one waits for both and
reviews whether they fit together; one waits for the review and synthesises the result. Each answer of the model becomes a file
under AGENTD_ARTIFACT_DIR, in a directory with the task's id.

Settings come from the environment, then from the env file (AGENTD_ENV_FILE, by default .env in AGENTD_HOME):

    DEEPSEEK_API_KEY      required
    DEEPSEEK_BASE_URL     https://api.deepseek.com
    DEEPSEEK_MODEL        deepseek-v4-flash
    DEEPSEEK_MAX_TOKENS   120
    DEEPSEEK_TEMPERATURE  0.2
    AGENTD_AGENT_WORKERS  2
    AGENTD_ARTIFACT_DIR   ~/.agentd/artifacts
    AGENTD_SOCKET_PATH    ~/.agentd/agentd.sock

Any service with an OpenAI-style POST {base}/chat/completions will do. Python 3.9 and its standard library are enough.
Exit code: 0 when all four nodes are completed, 1 when not, 2 when a setting is wrong, 130 when interrupted.
"""

import argparse
import datetime
import email.utils
import json
import os
import re
import socket
import sys
import threading
import urllib.error
import urllib.parse
import urllib.request
import uuid

ANSWER_BYTES_MAX = 16 * 1024 * 1024  # an answer of agentd
MODEL_ANSWER_BYTES_MAX = 4 * 1024 * 1024  # an answer of the model's service
RESULT_TEXT_BYTES_MAX = 64 * 1024  # what is handed to the next node; the artifact has it whole
RETRY_AFTER_SECS_MAX = 60  # however long the service asks us to stay away
WAIT_SECS = 30  # how long one acquire waits in the daemon before it is asked again
RECONNECT_SECS = 30  # how long a worker looks for a daemon that went away

GOAL = "A worker script, its IPC contract, a review of both, and a synthesis"
SYSTEM = "You are one of several agents that build a small worker for agentd, a daemon with a JSON Lines socket. Be brief."
ROLES = {
    "script": {
        "file": "worker.py",
        "needs": [],
        "prompt": "Write a compact Python 3 worker script (standard library only) that connects to a Unix socket, calls "
        "AcquireNextNode, and completes the node with CompleteNode. Answer with the code alone.",
    },
    "contract": {
        "file": "contract.md",
        "needs": [],
        "prompt": "Write the IPC contract of such a worker in Markdown: framing (one JSON request a line), the requests "
        "AcquireNextNode, HeartbeatNode and CompleteNode with their fields, and what a stale lease means.",
    },
    "review": {
        "file": "review.md",
        "needs": ["script", "contract"],
        "prompt": "Review whether this script keeps to this contract, and what happens when it stalls or dies. Name each "
        "risk in a line.",
    },
    "synthesis": {
        "file": "synthesis.md",
        "needs": ["review"],
        "prompt": "Summarise for the user what was built and which change the review asks for first.",
    },
}


class SettingsError(Exception):
    """A setting is missing or wrong. The message never holds a value of a secret one."""


class ModelError(Exception):
    """The model's service gave no usable answer. `details` go to the node's error_payload."""

    def __init__(self, message, **details):
        super().__init__(message)
        self.details = dict(details, message=message)


class Refused(Exception):
    """agentd answered with an error."""

    def __init__(self, error):
        super().__init__(error.get("message", str(error)))
        self.code = error.get("code")


class LeaseLost(Exception):
    """Somebody else may have the node by now: what was made for it is dropped."""


# ---- settings


def read_env_file(path, required):
    """The NAME=value lines of a file, quotes taken off."""
    values = {}
    try:
        with open(path, encoding="utf-8") as file:
            for line in file:
                found = re.match(r"\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*?)\s*$", line)
                if not found:
                    continue
                value = found.group(2)
                if value[:1] in ("'", '"'):
                    end = value.find(value[0], 1)
                    value = value[1:end] if end > 0 else value[1:]
                else:
                    value = re.split(r"(?:^|\s)#", value)[0].strip()
                values[found.group(1)] = value
    except FileNotFoundError:
        if required:
            raise SettingsError(f"the env file {path} does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"cannot read the env file {path}: {error}") from None
    return values


class Settings:
    """Where everything is and how the model is asked."""

    def __init__(self, environment):
        home = os.path.expanduser(environment.get("AGENTD_HOME") or "~/.agentd")
        asked_for = environment.get("AGENTD_ENV_FILE")
        self.env_file = os.path.expanduser(asked_for or os.path.join(home, ".env"))
        self.sources = (environment, read_env_file(self.env_file, bool(asked_for)))
        home = os.path.expanduser(self.get("AGENTD_HOME", home))
        self.socket_path = os.path.expanduser(self.get("AGENTD_SOCKET_PATH", os.path.join(home, "agentd.sock")))
        self.artifact_dir = os.path.expanduser(self.get("AGENTD_ARTIFACT_DIR", os.path.join(home, "artifacts")))
        self.workers = self.number("AGENTD_AGENT_WORKERS", 2, 1, 16)
        self.base_url = self.get("DEEPSEEK_BASE_URL", "https://api.deepseek.com").rstrip("/")
        self.model = self.get("DEEPSEEK_MODEL", "deepseek-v4-flash")
        self.max_tokens = self.number("DEEPSEEK_MAX_TOKENS", 120, 1, 1_000_000)
        self.temperature = self.number("DEEPSEEK_TEMPERATURE", 0.2, 0.0, 2.0)
        self.api_key = self.get("DEEPSEEK_API_KEY", "")
        if not self.api_key:
            raise SettingsError(f"DEEPSEEK_API_KEY is not set: put it into the environment, or into {self.env_file} (chmod 600)")
        if not re.fullmatch(r"[!-~]+", self.api_key):
            raise SettingsError("DEEPSEEK_API_KEY holds a blank or another character that no key has")
        url = urllib.parse.urlsplit(self.base_url)
        if url.scheme not in ("http", "https") or not url.hostname or url.username or url.password:
            raise SettingsError("DEEPSEEK_BASE_URL must be like https://api.deepseek.com, without a user or a password in it")
        if url.scheme == "http" and url.hostname not in ("localhost", "127.0.0.1", "::1"):
            print("warning: DEEPSEEK_BASE_URL is http: the key travels in the clear", file=sys.stderr)

    def get(self, name, default):
        """The first source that has a value; an empty one counts as absent."""
        for source in self.sources:
            if source.get(name):
                return source[name]
        return default

    def number(self, name, default, least, most):
        """A number of the default's type within bounds."""
        text = self.get(name, None)
        try:
            value = default if text is None else type(default)(text)
        except ValueError:
            raise SettingsError(f"{name} is {text!r}, which is not a number of the kind that is asked for") from None
        if not least <= value <= most:
            raise SettingsError(f"{name} is {value}; it must be between {least} and {most}")
        return value


# ---- agentd


class Agentd:
    """A connection to the daemon that is made anew when the daemon comes back."""

    def __init__(self, path, stop):
        self.path = path
        self.stop = stop
        self.socket = None
        self.lines = None

    def connect(self):
        """One try."""
        self.close()
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(WAIT_SECS + 60)
        try:
            connection.connect(self.path)
        except OSError:
            connection.close()
            raise
        self.socket, self.lines = connection, connection.makefile("rb")

    def close(self):
        """Ends the connection, also under a call that waits in another thread."""
        connection, self.socket = self.socket, None
        if connection is not None:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            connection.close()

    def call_once(self, method, params):
        """One request, one answer; raises OSError when the connection does not hold."""
        if self.socket is None:
            self.connect()
        request = {"id": str(uuid.uuid4()), "method": method, "params": params}
        self.socket.sendall(json.dumps(request).encode() + b"\n")
        line = self.lines.readline(ANSWER_BYTES_MAX + 1)
        if not line.endswith(b"\n"):
            raise ConnectionError("agentd closed the connection")
        answer = json.loads(line)
        if answer.get("id") != request["id"]:
            raise ConnectionError("agentd answered another request")
        if "error" in answer:
            raise Refused(answer["error"])
        return answer["result"]

    def call(self, method, **params):
        """As call_once, but finds a daemon again that was restarted. Every request that is sent this way may come twice:
        registering and completing carry an idempotency key for that; an acquire whose answer is lost leaves a
        lease that expires."""
        pause, waited = 0.1, 0.0
        while True:
            try:
                return self.call_once(method, params)
            except (OSError, ValueError) as error:
                # ValueError: an answer cut off, or the connection closed by another thread.
                self.close()
                if self.stop.is_set() or waited >= RECONNECT_SECS:
                    raise ConnectionError(f"cannot reach agentd at {self.path}: {error}") from None
            self.stop.wait(pause)
            waited += pause
            pause = min(pause * 2, 2.0)


class Heartbeat(threading.Thread):
    """Keeps a lease while the model thinks, on a connection of its own: the worker's is not to be blocked."""

    def __init__(self, path, lease, interval_secs):
        super().__init__(daemon=True)
        self.ended = threading.Event()
        self.lost = threading.Event()
        self.agentd = Agentd(path, self.ended)
        self.lease = lease
        self.interval_secs = interval_secs

    def run(self):
        while not self.ended.wait(self.interval_secs):
            try:
                self.agentd.call("HeartbeatNode", **self.lease)
            except Refused:
                self.lost.set()
                return
            except ConnectionError:
                # The lease may live on in the daemon's database: completing the node will tell.
                continue

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.agentd.close()
        self.join(5)


# ---- the model


class NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key to another host."""

    def redirect_request(self, *_args, **_kwargs):
        return None


class Model:
    """An OpenAI-style chat service."""

    def __init__(self, settings, options, stop):
        self.settings = settings
        self.options = options
        self.stop = stop
        self.opener = urllib.request.build_opener(NoRedirects)

    def scrub(self, text):
        """Some services repeat the key in their error messages."""
        return str(text).replace(self.settings.api_key, "****")[:500]

    def ask(self, prompt):
        """The model's answer and why it ended, after as many tries as it takes within the bounds."""
        failure = None
        for attempt in range(1, self.options.attempts + 1):
            try:
                return self.ask_once(prompt)
            except ModelError as error:
                failure = error
                error.details["attempts"] = attempt
                pause = error.details.pop("retry_after_secs", None)
                if not error.details.pop("retry", False) or attempt == self.options.attempts:
                    break
            if pause is None:
                pause = min(self.options.backoff_secs * 2 ** (attempt - 1), RETRY_AFTER_SECS_MAX)
            say(f"the model's service: {failure}; try {attempt + 1} of {self.options.attempts} in {pause:g} s")
            if self.stop.wait(pause):
                break
        raise failure

    def ask_once(self, prompt):
        """One request."""
        body = {
            "model": self.settings.model,
            "messages": [{"role": "system", "content": SYSTEM}, {"role": "user", "content": prompt}],
            "max_tokens": self.settings.max_tokens,
            "temperature": self.settings.temperature,
            "stream": False,
        }
        request = urllib.request.Request(
            self.settings.base_url + "/chat/completions",
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json", "Authorization": f"Bearer {self.settings.api_key}"},
            method="POST",
        )
        try:
            with self.opener.open(request, timeout=self.options.request_timeout_secs) as response:
                data = response.read(MODEL_ANSWER_BYTES_MAX + 1)
        except urllib.error.HTTPError as error:
            raise self.refusal(error) from None
        except TimeoutError:
            raise ModelError(f"no answer within {self.options.request_timeout_secs:g} s", reason="timeout", retry=True) from None
        except (OSError, ValueError, urllib.error.URLError) as error:
            reason = getattr(error, "reason", error)
            if isinstance(reason, TimeoutError):
                raise ModelError(f"no answer within {self.options.request_timeout_secs:g} s", reason="timeout", retry=True) from None
            raise ModelError(f"cannot reach it: {self.scrub(reason)}", reason="unreachable", retry=True) from None
        if len(data) > MODEL_ANSWER_BYTES_MAX:
            raise ModelError(f"the answer has more than {MODEL_ANSWER_BYTES_MAX} bytes", reason="bad_answer")
        try:
            choice = json.loads(data)["choices"][0]
            text = choice["message"]["content"]
        except (ValueError, LookupError, TypeError):
            raise ModelError("the answer is not a chat completion", reason="bad_answer", retry=True) from None
        if not isinstance(text, str) or not text.strip():
            raise ModelError("the answer is empty", reason="bad_answer", retry=True)
        return text, choice.get("finish_reason")

    def refusal(self, error):
        """An HTTP status that is not 200, as a ModelError."""
        try:
            said = json.loads(error.read(64 * 1024))["error"]["message"]
        except (OSError, ValueError, LookupError, TypeError):
            said = error.reason
        retry = error.code == 429 or error.code >= 500
        hints = {401: " (is DEEPSEEK_API_KEY right?)", 402: " (is there money left?)", 404: " (is DEEPSEEK_BASE_URL right?)"}
        return ModelError(
            f"HTTP {error.code}: {self.scrub(said)}{hints.get(error.code, '')}",
            reason="http",
            status=error.code,
            retry=retry,
            retry_after_secs=retry_after(error.headers.get("Retry-After")) if retry else None,
        )


def retry_after(header):
    """Seconds of a Retry-After header, which is a number or a date; None when there is none."""
    if not header:
        return None
    try:
        secs = float(header)
    except ValueError:
        try:
            secs = (email.utils.parsedate_to_datetime(header) - datetime.datetime.now(datetime.timezone.utc)).total_seconds()
        except (TypeError, ValueError):
            return None
    return min(max(secs, 0.0), RETRY_AFTER_SECS_MAX) if secs == secs else None


# ---- the work

say_lock = threading.Lock()


def say(text):
    """A line of progress, whole also when two workers speak at once."""
    with say_lock:
        print(f"[{threading.current_thread().name}] {text}", flush=True)


def register(agentd):
    """Registers the four nodes; returns the task's id."""
    ids = {name: str(uuid.uuid4()) for name in ROLES}
    nodes = [
        {
            "id": ids[name],
            "name": name,
            "dependencies": [ids[need] for need in role["needs"]],
            "payload_schema": {"role": name, "artifact": role["file"]},
        }
        for name, role in ROLES.items()
    ]
    task = agentd.call("RegisterTask", goal=GOAL, context={"program": "deepseek_agent_loop"}, initial_nodes=nodes, idempotency_key=str(uuid.uuid4()))
    return task["task_id"]


def clip(text, size_bytes):
    """The beginning of a text, in UTF-8 not longer than that."""
    data = text.encode()
    return text if len(data) <= size_bytes else data[:size_bytes].decode(errors="ignore") + "\n[cut]"


def code_of(text):
    """What stands between the first pair of fences, or everything."""
    found = re.search(r"```[A-Za-z0-9]*[ \t]*\n(.*?)(?:\n```|\Z)", text, re.DOTALL)
    return found.group(1) + "\n" if found else text


class Loop:
    """The workers of one task."""

    def __init__(self, settings, options, task_id, lease_secs):
        self.settings = settings
        self.options = options
        self.task_id = task_id
        # Three chances before a lease ends.
        self.heartbeat_secs = max(0.3, min(lease_secs / 3, 60))
        self.stop = threading.Event()
        self.model = Model(settings, options, self.stop)
        self.directory = os.path.join(settings.artifact_dir, task_id)
        self.connections = [Agentd(settings.socket_path, self.stop) for _ in range(settings.workers)]
        self.failure = None

    def run(self):
        """Runs until nothing is left to do."""
        threads = [
            threading.Thread(target=self.work, args=(agentd,), name=f"agent-{number}", daemon=True)
            for number, agentd in enumerate(self.connections, 1)
        ]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                # With a timeout, so that Ctrl-C is heard.
                while thread.is_alive():
                    thread.join(1)
        finally:
            self.end()

    def end(self):
        """Wakes whoever waits: for work, for the model's next try, for a daemon."""
        self.stop.set()
        for agentd in self.connections:
            agentd.close()

    def work(self, agentd):
        """A worker's life."""
        name = f"deepseek-{threading.current_thread().name}"
        try:
            while not self.stop.is_set():
                node = agentd.call("AcquireNextNode", task_id=self.task_id, lease_owner=name, wait_secs=WAIT_SECS)
                if node is None:
                    if self.finished(agentd):
                        return
                    # A daemon that does not know wait_secs answers at once.
                    self.stop.wait(0.2)
                    continue
                self.handle(agentd, node)
                if self.finished(agentd):
                    self.end()
        except (ConnectionError, Refused, KeyError, TypeError) as error:
            if not self.stop.is_set():
                self.failure = self.failure or f"{type(error).__name__}: {error}"
                self.end()

    def finished(self, agentd):
        """True when nothing runs and nothing can begin any more."""
        nodes = agentd.call("TaskStatus", task_id=self.task_id)["nodes"]
        status = {node["id"]: node["status"] for node in nodes}
        if "RUNNING" in status.values():
            return False
        return not any(
            node["status"] == "PENDING" and all(status.get(need) == "COMPLETED" for need in node["dependencies"]) for node in nodes
        )

    def handle(self, agentd, node):
        """One node, from the lease to the result."""
        lease = {key: node[key] for key in ("task_id", "node_id", "lease_id")}
        role = node["context"]["node"]["payload_schema"].get("role")
        try:
            with Heartbeat(self.settings.socket_path, lease, self.heartbeat_secs) as heartbeat:
                try:
                    result = self.produce(agentd, lease, role, node["context"])
                except ModelError as error:
                    say(f"{role}: {error}")
                    agentd.call("FailNode", error_payload=error.details, **lease)
                    return
                except OSError as error:
                    if isinstance(error, ConnectionError):
                        raise
                    say(f"{role}: cannot write the artifact: {error}")
                    agentd.call("FailNode", error_payload={"reason": "artifact", "message": str(error)}, **lease)
                    return
                if heartbeat.lost.is_set():
                    raise LeaseLost
            agentd.call("CompleteNode", result_payload=result, idempotency_key=lease["lease_id"], **lease)
            say(f"{role}: done, {result['artifact']}")
        except (LeaseLost, Refused) as error:
            say(f"{role}: the lease is over, so the result is dropped ({error or 'a heartbeat was refused'})")

    def produce(self, agentd, lease, role, context):
        """Asks the model and writes the artifact."""
        if role not in ROLES:
            raise ModelError(f"this program has no part called {role!r}", reason="unknown_role")
        prompt = ROLES[role]["prompt"]
        for dependency in context["completed_dependencies"]:
            payload = dependency["result_payload"] or {}
            prompt += f"\n\n--- {payload.get('role')} ({payload.get('artifact')}):\n{payload.get('text', '')}"
        say(f"{role}: asks {self.settings.model}")
        agentd.call("CommitEvent", action_type="MODEL_REQUEST", payload={"role": role, "model": self.settings.model, "prompt_chars": len(prompt)}, **lease)
        text, finish_reason = self.model.ask(prompt)
        result = {"role": role, "finish_reason": finish_reason}
        if role == "script":
            text = code_of(text)
            # A small DEEPSEEK_MAX_TOKENS cuts it off: the reviewer is to know.
            result["compiles"] = compiles(text)
        # Written whole or not at all: a worker that dies here leaves no half of it.
        os.makedirs(self.directory, exist_ok=True)
        path = os.path.join(self.directory, ROLES[role]["file"])
        part = f"{path}.{lease['lease_id']}.part"
        with open(part, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(part, path)
        result.update(artifact=path, text=clip(text, RESULT_TEXT_BYTES_MAX))
        return result


def compiles(text):
    """Whether it is Python at all. It is not run."""
    try:
        compile(text, "worker.py", "exec")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def report(agentd, task_id, directory):
    """Says how it ended; returns the exit code."""
    nodes = agentd.call("TaskStatus", task_id=task_id)["nodes"]
    print()
    for node in nodes:
        role = node["payload_schema"].get("role", node["id"])
        payload = node["result_payload"] or {}
        about = payload.get("artifact") or payload.get("message") or ""
        print(f"{node['status']:<10} {role:<10} {about}")
    done = all(node["status"] == "COMPLETED" for node in nodes)
    if done:
        last = next(node["result_payload"] for node in nodes if node["payload_schema"].get("role") == "synthesis")
        print(f"\n{last['text'].strip()}\n\nartifacts: {directory}")
    return 0 if done else 1


def positive(text):
    """A number of seconds above 0."""
    value = float(text)
    if not 0 < value <= 3600:
        raise argparse.ArgumentTypeError("must be above 0 and at most 3600")
    return value


def parse_options():
    """The command line."""
    parser = argparse.ArgumentParser(description="A four-node loop of agents over agentd and a language model.", epilog="Settings: see the head of this file, and .env.example.")
    parser.add_argument("--task", metavar="ID", help="go on with this task instead of registering one")
    parser.add_argument("--attempts", type=int, default=5, choices=range(1, 21), metavar="N", help="requests for one answer, at most (default 5)")
    parser.add_argument("--backoff-secs", type=positive, default=1.0, help="pause after the first failed request; it doubles (default 1)")
    parser.add_argument("--request-timeout-secs", type=positive, default=120.0, help="how long one request may take (default 120)")
    return parser.parse_args()


def main():
    """Registers the task, runs it, reports."""
    options = parse_options()
    try:
        settings = Settings(os.environ)
    except SettingsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    agentd = Agentd(settings.socket_path, threading.Event())
    try:
        agentd.connect()
    except OSError as error:
        print(f"error: cannot reach agentd at {settings.socket_path}: {error}\nstart it first: agentd, or cargo run", file=sys.stderr)
        return 1
    try:
        lease_secs = agentd.call("Health")["running_timeout_secs"]
        task_id = options.task or register(agentd)
        print(f"task {task_id}: {len(ROLES)} nodes, {settings.workers} workers, model {settings.model}", flush=True)
        loop = Loop(settings, options, task_id, lease_secs)
        try:
            loop.run()
        except KeyboardInterrupt:
            print(f"\ninterrupted; its leases end within {lease_secs} s. Go on with: --task {task_id}", file=sys.stderr)
            return 130
        if loop.failure:
            print(f"error: {loop.failure}", file=sys.stderr)
            return 1
        return report(agentd, task_id, loop.directory)
    except (Refused, ConnectionError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    finally:
        agentd.close()


if __name__ == "__main__":
    sys.exit(main())
