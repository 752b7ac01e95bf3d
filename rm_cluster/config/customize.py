"""How prompts are customized for language models whose log-probs are rewards (CDR)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from rm_cluster.config.base import Config
from rm_cluster.config.pretrained import GeneratorConfig


class ExemplarConfig(Config):
    """A prompt with a good and a bad reply, to be shown to a model."""

    prompt: str = Field(min_length=1)
    good: str = Field(min_length=1)
    bad: str = Field(min_length=1)
    why: str = ""
    """What makes the one good and the other bad."""


class DomainConfig(Config):
    """A kind of prompt: how it is told, and what a model is told of it."""

    definition: str = Field(min_length=1)
    """For a router that reads."""
    rows: list[str] = Field(default_factory=list)
    """Patterns of the domains and slices of rows that belong to it, as `math*`; case is ignored."""
    criteria: str = ""
    """What a good reply is, for the system turn."""
    exemplars: list[ExemplarConfig] = Field(default_factory=list)


class TemplatesConfig(Config):
    """The domains, and which of them a prompt is taken for that fits none."""

    fallback: str
    domains: dict[str, DomainConfig] = Field(min_length=1)

    @model_validator(mode="after")
    def _fallback_is_there(self) -> TemplatesConfig:
        if self.fallback not in self.domains:
            raise ValueError(
                f"fallback must be one of the domains, {', '.join(self.domains)}; got "
                f"{self.fallback!r}"
            )
        return self


class RouterConfig(GeneratorConfig):
    """A language model that says which domain a prompt is of."""

    temperature: NonNegativeFloat = 0.0
    n: Literal[1] = 1
    max_new_tokens: PositiveInt = 64
    templates: str = "default"
    """Whose domains; those of the customization that it routes for."""


class CustomizeConfig(Config):
    """What a model is told before it reads a prompt, by the prompt's domain."""

    templates: str = "default"
    """A YAML or JSON file of `TemplatesConfig`, or our own: safety, reasoning and chat."""
    router: RouterConfig | None = None
    """Who says the domain of a prompt; the rows' own domains and slices where None."""
    use: list[Literal["criteria", "exemplars"]] = Field(default=["criteria", "exemplars"])
    """Criteria as a system turn, exemplars before the last user turn; both, one, or none."""
    num_exemplars: PositiveInt = 1
    """Of those that a domain has."""
    draw: Literal["row", "domain"] = "row"
    """Exemplars are drawn for each row, or once for each domain, so that its prompts begin alike
    and the beginning is computed once."""
    seed: NonNegativeInt = 0

    def routing(self) -> RouterConfig | None:
        """The router, with the domains of these templates."""
        return self.router and self.router.model_copy(update={"templates": self.templates})
