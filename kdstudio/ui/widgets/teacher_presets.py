"""The usual endpoints: their address, which kind of API they speak, and where a key for them comes from."""

from __future__ import annotations

from dataclasses import dataclass

from kdstudio.models.spec import TeacherKind


@dataclass(frozen=True)
class Preset:
    """A usual endpoint. `model`: a name to start from; `key`: whether it wants one; `hint` says what is to be done."""

    label: str
    url: str
    model: str = ""
    key: bool = False
    hint: str = ""
    kind: TeacherKind = "openai"
    variable: str = "OPENAI_API_KEY"


_KEYS = "Sign in to {} with your account; under {} a new key can be made. It is shown there once."
PRESETS: dict[str, Preset] = {
    "ollama": Preset(
        "Ollama",
        "http://localhost:11434/v1",
        "llama3.2",
        hint="No key. Ollama must be running; “ollama list” names its models.",
    ),
    "lm_studio": Preset(
        "LM Studio",
        "http://localhost:1234/v1",
        hint="No key. Start the server on LM Studio’s Developer page; the model’s name stands there.",
    ),
    "vllm": Preset(
        "vLLM",
        "http://localhost:8000/v1",
        hint="No key, unless it was started with --api-key. The model is called what “vllm serve” was given.",
    ),
    "llama_server": Preset(
        "llama-server (llama.cpp)",
        "http://localhost:8080/v1",
        hint="No key, unless it was started with --api-key. It answers whatever it is called.",
    ),
    "openai": Preset(
        "OpenAI", "https://api.openai.com/v1", "", key=True, hint=_KEYS.format("OpenAI’s platform", "API keys")
    ),
    "anthropic": Preset(
        "Anthropic",
        "https://api.anthropic.com",
        "",
        key=True,
        hint=_KEYS.format("the Claude console", "API keys"),
        kind="anthropic",
        variable="ANTHROPIC_API_KEY",
    ),
    "openrouter": Preset(
        "OpenRouter",
        "https://openrouter.ai/api/v1",
        "",
        key=True,
        hint=_KEYS.format("OpenRouter", "Keys") + " Models are called maker/model.",
        variable="OPENROUTER_API_KEY",
    ),
    "custom": Preset("Another endpoint", "", "", key=True, hint="Any server that speaks OpenAI’s chat completions."),
}
