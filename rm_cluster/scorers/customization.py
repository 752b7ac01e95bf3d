"""Prompts customized by their domain: criteria and exemplars before the prompt (CDR, Dr. SoW).

Source: Xu et al., arXiv 2411.02481, and its code: both models of a density ratio read a prompt
after criteria of what a good reply is (a system turn) and examples of good and bad replies, and the
prompt itself is laid out as the next example, whose good reply is asked for.
"""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
import json
import random
from collections.abc import Iterable, Sequence
from importlib.resources import as_file, files
from typing import Any

from rm_cluster.config import CustomizeConfig, DomainConfig, ExemplarConfig, TemplatesConfig
from rm_cluster.conversation import listed_rows, readable
from rm_cluster.errors import DataFormatError
from rm_cluster.parsing import parse_config
from rm_cluster.types import Message, Row

_UNTOLD: Any = {"id": "", "domain": "", "slices": []}
"""What a row in this process need not say."""


def load_templates(source: str) -> TemplatesConfig:
    """Read a file of templates, or our own where `source` is `default`.

    Raises:
        ConfigError: It cannot be read, or is not what it should be.
    """
    if source != "default":
        return parse_config(TemplatesConfig, source)
    with as_file(files("rm_cluster.scorers").joinpath("templates.yaml")) as path:
        return parse_config(TemplatesConfig, path)


def templates_hash(templates: TemplatesConfig) -> str:
    """Identify templates by content."""
    content = json.dumps(templates.model_dump(), sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


class Customizer:
    """Tells a model what is wanted of a prompt's domain, before the prompt.

    Raises:
        ConfigError: The templates cannot be read.
    """

    def __init__(self, config: CustomizeConfig) -> None:
        self._config = config
        self.templates = load_templates(config.templates)

    @property
    def contract(self) -> dict[str, Any]:
        """What decides how a prompt is customized; the router is part of it."""
        router = self._config.router
        return {
            **self._config.model_dump(exclude={"templates", "router"}),
            "templates_hash": templates_hash(self.templates),
            "router": "domain and slices of the row" if router is None else router.model,
        }

    def domain_of(self, row: Row) -> str:
        """The first domain one of whose patterns the row's domain fits, or else one of its slices.

        A row that fits none is of the fallback.
        """
        for name in (row["domain"], *row["slices"]):
            for domain, template in self.templates.domains.items():
                patterns = (domain, *template.rows)
                if any(fnmatch.fnmatchcase(name.lower(), p.lower()) for p in patterns):
                    return domain
        return self.templates.fallback

    def customized(self, row: Row, domain: str) -> Row:
        """The row with its prompt customized for a domain."""
        template = self.templates.domains[domain]
        prompt = list(row["prompt"])
        if "exemplars" in self._config.use and template.exemplars:
            prompt = _with_exemplars(prompt, self._exemplars(row, domain, template))
        if "criteria" in self._config.use and template.criteria:
            prompt = _with_system(prompt, template.criteria)
        return {**row, "prompt": prompt}

    def routed(self, rows: Iterable[Row]) -> list[Row]:
        """The rows customized for their domains, which a router is asked for in this process.

        One that cannot be read stays as it is, for the error that it will be.
        """
        found = listed_rows(rows)
        known: dict[int, Row] = {}
        for place, row in enumerate(found):
            with contextlib.suppress(DataFormatError):
                known[place] = _told(readable(row))
        routing = self._config.routing()
        if routing is None:
            domains = [self.domain_of(row) for row in known.values()]
        else:
            from rm_cluster.scorers.router import Router

            domains = Router(**routing.model_dump()).route(known.values())
        for (place, row), domain in zip(known.items(), domains, strict=True):
            found[place] = self.customized(row, domain)
        return found

    def _exemplars(self, row: Row, domain: str, template: DomainConfig) -> str:
        """Exemplars drawn by the seed and the row's id, or by the domain alone."""
        config = self._config
        key = row["id"] if config.draw == "row" else ""
        draw = random.Random(f"{config.seed}\n{domain}\n{key}")
        num = min(config.num_exemplars, len(template.exemplars))
        return "".join(map(_shown, draw.sample(template.exemplars, num)))


def _told(row: Row) -> Any:
    """The row with what it need not say, even where a table has nothing in its place."""
    return {**_UNTOLD, **{key: value for key, value in row.items() if value is not None}}


def folded(row: Row) -> Row:
    """The row with its system turn folded in; one that cannot be read stays as it is."""
    try:
        return {**row, "prompt": fold_system(readable(row)["prompt"])}
    except DataFormatError:
        return row


def fold_system(prompt: Sequence[Message]) -> list[Message]:
    """The prompt with a leading system turn put before the first user turn, in its words.

    For chat templates that have no place for a system turn.
    """
    if len(prompt) < 2 or prompt[0]["role"] != "system" or prompt[1]["role"] != "user":
        return list(prompt)
    text = f"{prompt[0]['content']}\n\n{prompt[1]['content']}"
    return [Message(role="user", content=text), *prompt[2:]]


def _shown(exemplar: ExemplarConfig) -> str:
    parts = [
        f"User: {exemplar.prompt}",
        f"Good reply: {exemplar.good}",
        f"Bad reply: {exemplar.bad}",
        *([f"Why: {exemplar.why}"] if exemplar.why else []),
    ]
    return "".join(f"{part}\n\n" for part in parts)


def _with_exemplars(prompt: list[Message], exemplars: str) -> list[Message]:
    """The last user turn laid out as the next example; a prompt without one stays as it is."""
    users = [i for i, turn in enumerate(prompt) if turn["role"] == "user"]
    if not users:
        return prompt
    last = users[-1]
    text = f"{exemplars}User: {prompt[last]['content']}\n\nGood reply:"
    return [*prompt[:last], Message(role="user", content=text), *prompt[last + 1 :]]


def _with_system(prompt: list[Message], criteria: str) -> list[Message]:
    if prompt and prompt[0]["role"] == "system":
        text = f"{criteria}\n\n{prompt[0]['content']}"
        return [Message(role="system", content=text), *prompt[1:]]
    return [Message(role="system", content=criteria), *prompt]
