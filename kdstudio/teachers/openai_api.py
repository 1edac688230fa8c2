"""Any endpoint that speaks OpenAI's chat completions: Ollama, LM Studio, vLLM, llama-server, hosted ones."""

from __future__ import annotations

import functools
import importlib.util
from typing import Any, ClassVar

import openai

from kdstudio.errors import KnownError
from kdstudio.models.endpoint import base_url, is_local
from kdstudio.models.spec import TeacherSpec
from kdstudio.teachers import openai_failures as failures
from kdstudio.teachers.base import Capabilities
from kdstudio.teachers.hosted import HostedTeacher, system_trust
from kdstudio.teachers.ledger import Ledger
from kdstudio.teachers.openai_batch import OpenAIBatches
from kdstudio.teachers.openai_provider import OpenAIProvider
from kdstudio.teachers.wire import Failure


class OpenAITeacher(HostedTeacher):
    """A teacher behind an OpenAI-compatible URL.

    `options`: those of `conversing.Manners`, price (US dollars for a million tokens: input, output, cached),
    context_tokens, images (false for a model that does not see), extra_body (further fields of each request, such as
    vLLM's chat_template_kwargs).
    """

    unscored: ClassVar[str] = "A chat endpoint answers, but does not score given text."
    errors: ClassVar[tuple[type[Exception], ...]] = (openai.APIError,)

    def __init__(self, spec: TeacherSpec, secrets: dict[str, str], ledger: Ledger | None = None) -> None:
        """Prepare; nothing is sent yet. Raises `BadInput` for a URL that is none, and for options of the wrong kind."""
        super().__init__(spec, base_url(spec.url), secrets, ledger)

    def _capabilities(self, **further: Any) -> Capabilities:
        return super()._capabilities(answer_log_probs=True, **further)

    def _client(self) -> openai.AsyncOpenAI:
        """A client without retries of its own. A server on this machine is never asked through a proxy."""
        seconds, connecting = self._patience
        options: dict[str, Any] = {"trust_env": False, "verify": system_trust()} if is_local(self._url) else {}
        return openai.AsyncOpenAI(
            base_url=self._url,
            api_key=self._key or "none",
            max_retries=0,
            timeout=openai.Timeout(seconds, connect=connecting),
            http_client=carrier()(**options),
        )

    def _provider(self, most: int) -> OpenAIProvider:
        pictures = self._ledger.project_folder
        clients = most if carrier() is openai.DefaultAsyncHttpxClient else 1  # aiohttp's pool finds a place at once
        return OpenAIProvider(self._client, clients, self._spec, self._key, self.notes, pictures)

    def _batches(self, provider: OpenAIProvider) -> OpenAIBatches:
        return OpenAIBatches(self._client, self._spec, provider.fields)

    async def _listed(self, seconds: float) -> list[str]:
        async with self._client() as client:
            listed = await client.models.list(timeout=seconds)
            return [str(model.id) for model in listed.data]

    def _refusal(self, error: BaseException) -> KnownError | None:
        return failures.refusal(error, self._spec, self._key)

    def _failure(self, error: BaseException) -> Failure:
        return failures.failure_of(error, self._spec, self._key)


@functools.cache
def carrier() -> type[openai.DefaultAsyncHttpxClient]:
    """The SDK's transport: aiohttp where it is installed, which takes the processor half as long as httpx."""
    return openai.DefaultAioHttpClient if importlib.util.find_spec("aiohttp") else openai.DefaultAsyncHttpxClient
