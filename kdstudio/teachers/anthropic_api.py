"""Anthropic's models, and whatever else speaks the Messages API."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import anthropic

from kdstudio.errors import KnownError
from kdstudio.models.endpoint import anthropic_url, is_local
from kdstudio.models.spec import TeacherSpec
from kdstudio.teachers import anthropic_failures as failures
from kdstudio.teachers.anthropic_batch import AnthropicBatches
from kdstudio.teachers.anthropic_provider import AnthropicProvider
from kdstudio.teachers.hosted import HostedTeacher, system_trust
from kdstudio.teachers.ledger import Ledger
from kdstudio.teachers.wire import Failure

_MOST_LISTED = 1000


class AnthropicTeacher(HostedTeacher):
    """A teacher behind the Messages API.

    `options`: as `OpenAITeacher`'s; `extra_body` may turn thinking on ({"thinking": {"type": "adaptive"}}), whose
    tokens count within max_tokens. There are no seeds: the same run, asked again, gives other answers.
    """

    unscored: ClassVar[str] = "Anthropic's API answers in text alone."
    errors: ClassVar[tuple[type[Exception], ...]] = (anthropic.APIError,)

    def __init__(self, spec: TeacherSpec, secrets: dict[str, str], ledger: Ledger | None = None) -> None:
        """Prepare; nothing is sent yet. Raises `BadInput` for a URL that is none, and for options of the wrong kind."""
        url = anthropic_url(spec.url)
        super().__init__(replace(spec, url=url), url, secrets, ledger)

    def _client(self) -> anthropic.AsyncAnthropic:
        """A client without retries of its own, and without any key but the one it is given.

        A server on this machine is never asked through a proxy.
        """
        seconds, connecting = self._patience
        local = is_local(self._url)
        direct = anthropic.DefaultAsyncHttpxClient(trust_env=False, verify=system_trust()) if local else None
        return anthropic.AsyncAnthropic(
            base_url=self._url,
            api_key=self._key or "none",
            max_retries=0,
            timeout=anthropic.Timeout(seconds, connect=connecting),
            http_client=direct,
        )

    def _provider(self, most: int) -> AnthropicProvider:
        pictures = self._ledger.project_folder
        return AnthropicProvider(self._client, most, self._spec, self._key, self.notes, pictures)

    def _batches(self, provider: AnthropicProvider) -> AnthropicBatches:
        return AnthropicBatches(self._client, self._spec, provider.fields)

    async def _listed(self, seconds: float) -> list[str]:
        async with self._client() as client:
            listed = await client.models.list(limit=_MOST_LISTED, timeout=seconds)
            return [str(model.id) for model in listed.data]

    def _refusal(self, error: BaseException) -> KnownError | None:
        return failures.refusal(error, self._spec, self._key)

    def _failure(self, error: BaseException) -> Failure:
        return failures.failure_of(error, self._spec, self._key)
