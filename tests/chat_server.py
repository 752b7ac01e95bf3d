"""A chat server on this machine that behaves as badly as a test asks it to."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "sk-test-0123456789abcdef"
KEY_VARIABLE = "RM_CLUSTER_TEST_API_KEY"

Reply = tuple[int, dict[str, str], str]
"""Status, headers and body."""


@dataclass
class ChatServer:
    """What was asked, and how to answer.

    Attributes:
        url: What `base_url` is to be.
        reply: Request body and its number, from 0 -> what is sent back.
        requests: The bodies so far.
        seconds: When each came, by `time.monotonic`.
        most_at_once: The most requests that were in flight together.
    """

    url: str
    reply: Callable[[dict[str, Any], int], Reply]
    requests: list[dict[str, Any]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    most_at_once: int = 0
    at_once: int = 0


def said(text: str, finish_reason: str = "stop") -> Reply:
    """A chat completion."""
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": finish_reason}
    return 200, {}, json.dumps({"choices": [choice]})


def likely(**logprobs: float) -> Reply:
    """A chat completion with the log-probs of its first token."""
    top = [{"token": token, "logprob": value} for token, value in logprobs.items()]
    choice = {
        "message": {"role": "assistant", "content": next(iter(logprobs))},
        "logprobs": {"content": [{"token": "?", "logprob": 0.0, "top_logprobs": top}]},
        "finish_reason": "length",
    }
    return 200, {}, json.dumps({"choices": [choice]})


def question(body: dict[str, Any]) -> str:
    """What the judge was asked."""
    content: str = body["messages"][-1]["content"]
    return content


@contextlib.contextmanager
def chat_server(
    reply: Callable[[dict[str, Any], int], Reply], key: str | None = KEY
) -> Iterator[ChatServer]:
    """Serve until the block ends; requests without the key get 401, which repeats what they had."""
    import time

    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            given = self.headers.get("Authorization", "")
            with lock:
                number = len(server.requests)
                server.requests.append({"path": self.path, **body})
                server.seconds.append(time.monotonic())
                server.at_once += 1
                server.most_at_once = max(server.most_at_once, server.at_once)
            if key is not None and given != f"Bearer {key}":
                status, headers, text = 401, {}, f"wrong key: {given}"
            else:
                status, headers, text = server.reply(body, number)
            with lock:
                server.at_once -= 1
            raw = text.encode()
            with contextlib.suppress(OSError):  # a client that lost its patience
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 64  # those beyond it would try again after a second

    http = Server(("127.0.0.1", 0), Handler)
    server = ChatServer(f"http://127.0.0.1:{http.server_port}/v1", reply)
    thread = threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
