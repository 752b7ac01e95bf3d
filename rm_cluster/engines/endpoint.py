"""A model behind an OpenAI-compatible endpoint: conversations in, answers out, many at a time.

What fails in passing (429, 5xx, time-outs, lost connections, answers that are none) is asked again,
after waits that grow and have jitter, and not before the server's `Retry-After`. What fails for
good is the reason in the answer's place. The key is read from the environment when the model is
loaded and goes into one header; it is cut out of whatever a server may say.
"""

from __future__ import annotations

import asyncio
import email.utils
import json
import os
import random
import time
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import aiohttp

from rm_cluster.config import EndpointConfig
from rm_cluster.errors import ConfigError

T = TypeVar("T")

MAX_WAIT_S = 60.0
_MAX_BYTES = 8_000_000
_USERS_FAULT = {
    400: "it refuses the request",
    401: "it refuses the key",
    403: "it refuses the key",
    404: "there is no such path or model",
    422: "it refuses the request",
}


class Answer(NamedTuple):
    """What the model said, or why nothing came."""

    text: str = ""
    logprobs: tuple[tuple[str, float], ...] = ()
    """Of the first token, the likeliest ones with their log-probs, if they were asked for."""
    finish_reason: str = ""
    error: str | None = None


class _Passing(Exception):
    """A failure that may pass; `wait_s` is how long the server wants to be left alone."""

    def __init__(self, reason: str, wait_s: float = 0.0) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


class _Lasting(Exception):
    """A failure that asking again will not mend."""

    def __init__(self, reason: str, status: int) -> None:
        super().__init__(reason)
        self.status = status


class EndpointEngine:
    """Asks a chat model on a server.

    Args:
        config: Where, and how patiently.
        model: The server's name of the model.
        name: Of the judge, for messages.
        body: Fields of every request beside model and messages.

    Raises:
        ConfigError: The key is not in the environment; or the server cannot be reached, or refuses
            a first small request, for a reason that the user can mend.
    """

    def __init__(self, config: EndpointConfig, model: str, name: str, body: dict[str, Any]) -> None:
        self._config = config
        self._name = name
        self._url = f"{config.base_url.rstrip('/')}/chat/completions"
        fields = {"model": model, **body, **config.body}
        self._body = {key: value for key, value in fields.items() if value is not None}
        self._key = _key(config, name)
        self._next_start = 0.0  # by time.monotonic
        _run(self._try_out())

    def ask(self, conversations: Sequence[list[dict[str, str]]]) -> list[Answer]:
        """Return the answer to each conversation."""
        return _run(self._ask_all(conversations))

    async def _try_out(self) -> None:
        """Find out with one small question what would fail for all of them."""
        async with self._session() as session:
            try:
                await self._post(session, [{"role": "user", "content": "Answer with A."}])
            except _Lasting as error:
                if error.status in _USERS_FAULT:
                    raise ConfigError(f"{self._name}: {error}") from None
            except _Passing as error:
                if isinstance(error.__cause__, aiohttp.ClientConnectorError | ValueError):
                    raise ConfigError(
                        f"{self._name}: cannot reach {self._url}: {error}. Is base_url right, and "
                        "the server up?"
                    ) from None

    async def _ask_all(self, conversations: Sequence[list[dict[str, str]]]) -> list[Answer]:
        slots = asyncio.Semaphore(self._config.max_concurrency)
        async with self._session() as session:
            return await asyncio.gather(
                *(self._ask(session, slots, conversation) for conversation in conversations)
            )

    async def _ask(
        self,
        session: aiohttp.ClientSession,
        slots: asyncio.Semaphore,
        conversation: list[dict[str, str]],
    ) -> Answer:
        async with slots:
            for attempt in range(self._config.max_retries + 1):
                try:
                    return await self._post(session, conversation)
                except _Lasting as error:
                    return Answer(error=str(error))
                except _Passing as error:
                    reason = str(error)
                    if error.wait_s > MAX_WAIT_S:
                        return Answer(error=f"{reason}; it asks to wait {error.wait_s:.0f} s")
                    grown = random.uniform(0.5, 1.0) * min(MAX_WAIT_S, 0.5 * 2**attempt)
                    if attempt < self._config.max_retries:
                        await asyncio.sleep(max(error.wait_s, grown))
        return Answer(error=f"asked {self._config.max_retries + 1} times: {reason}")

    async def _post(
        self, session: aiohttp.ClientSession, conversation: list[dict[str, str]]
    ) -> Answer:
        await self._wait_for_turn()
        try:
            async with session.post(
                self._url,
                json={**self._body, "messages": conversation},
                # a redirect would take the key somewhere else
                allow_redirects=False,
            ) as response:
                raw = await _read(response)
                status, headers = response.status, response.headers
        except TimeoutError:
            raise _Passing(f"no answer within {self._config.timeout_s:g} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:  # ValueError: no URL
            raise _Passing(self._clean(f"{type(error).__name__}: {error}")) from error
        if status == 200:
            return self._answer(raw)
        reason = f"{self._url} answers {status}"
        if status in _USERS_FAULT:
            reason += f" ({_USERS_FAULT[status]})"
        reason += f": {self._clean(raw)}"
        if status in (408, 409, 425, 429) or status >= 500:
            wait_s = _retry_after(headers.get("Retry-After"))
            if wait_s <= MAX_WAIT_S:  # nobody else need ask before that either
                self._next_start = max(self._next_start, time.monotonic() + wait_s)
            raise _Passing(reason, wait_s)
        raise _Lasting(reason, status)

    async def _wait_for_turn(self) -> None:
        """Space the requests of a minute evenly."""
        per_minute = self._config.requests_per_minute
        start = max(time.monotonic(), self._next_start)
        if per_minute is not None:
            self._next_start = start + 60.0 / per_minute
        await asyncio.sleep(start - time.monotonic())

    def _answer(self, raw: str) -> Answer:
        try:
            choice = json.loads(raw)["choices"][0]
            text = choice["message"].get("content") or ""
            listed = ((choice.get("logprobs") or {}).get("content") or [{}])[0]
            logprobs = [(t["token"], float(t["logprob"])) for t in listed.get("top_logprobs") or ()]
            reason = str(choice.get("finish_reason") or "")
            if not isinstance(text, str) or not all(isinstance(t, str) for t, _ in logprobs):
                raise TypeError("content that is not text")
        except (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError):
            raise _Passing(f"not a chat completion: {self._clean(raw)}") from None
        tokens = tuple((self._without_key(token), value) for token, value in logprobs)
        return Answer(self._without_key(text), tokens, reason)

    def _session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=self._config.timeout_s),
            headers={} if self._key is None else {"Authorization": f"Bearer {self._key}"},
            trust_env=True,
        )

    def _clean(self, text: str) -> str:
        """One short line, without the key."""
        return " ".join(self._without_key(text).split())[:200] or "(nothing)"

    def _without_key(self, text: str) -> str:
        return text if self._key is None else text.replace(self._key, "***")


def _run(work: Coroutine[Any, Any, T]) -> T:
    """Run in a thread, because the caller's may have a loop of its own, as notebooks do."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


def _key(config: EndpointConfig, name: str) -> str | None:
    if config.api_key_env is None:
        return None
    key = os.environ.get(config.api_key_env, "").strip()
    if not key.isascii() or not key.isprintable() or not key:
        raise ConfigError(
            f"{name}: the environment variable {config.api_key_env} holds no key where the judge "
            "runs. Set it before Ray starts, or on every node of the cluster."
        )
    return key


async def _read(response: aiohttp.ClientResponse) -> str:
    body = await response.content.read(_MAX_BYTES)
    while len(body) < _MAX_BYTES and (more := await response.content.read(_MAX_BYTES - len(body))):
        body += more
    return body.decode("utf-8", errors="replace")


def _retry_after(value: str | None) -> float:
    """Seconds to wait, from a number of them or a date; 0 where it is neither."""
    if value is None:
        return 0.0
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError):
        return 0.0
