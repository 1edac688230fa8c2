"""The chat server: one child process that holds the models of a conversation and streams their answers.

`python -m kdstudio chat-server` reads JSON lines on standard input and writes JSON lines on standard output:
first `{"models": [{"id", "gguf" | "teacher", "context_tokens"?}], "secrets": {}, "project": folder?}`, then any number
of `{"id", "model", "messages", "sampling"}` and `{"cancel": id}`. Each request gets `{"id", "delta"}` lines and one
`{"id", "done": true, "text", "tokens", "tokens_per_second", "finish_reason", "log_probs", "cost"}` or
`{"id", "error"}`; each model says `{"ready": model}` once it is loaded. `log_probs` has a
`[text, nats, [[text, nats], ...]]` for each token, where sampling asks for so many of the likeliest and the model gives
them; `cost` is in US dollars. It ends when its input does, so that it never outlives the window.
"""

from __future__ import annotations

import functools
import json
import os
import queue
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from kdstudio import secrets, settings
from kdstudio.errors import BadInput, KnownError
from kdstudio.teachers.base import Message, Sampling, TeacherSpec

if TYPE_CHECKING:
    from kdstudio.jobs.chat_models import ChatModel, LlamaChat

# Waiting threads must not spin, or every token on a busy machine costs a time slice (measured: 7 times slower). OpenMP
# reads this when it is loaded, so llama.cpp is imported only in the functions below.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

MAXIMUM_LINE_BYTES = 16 << 20
_SAMPLING_KEYS = ("max_tokens", "temperature", "top_p", "top_k", "seed", "stop", "log_probs")
MOST_LOG_PROBS = 20


class ChatServer:
    """Serves the requests of one input stream; each model answers in a thread of its own, one request at a time."""

    def __init__(self, write: Callable[[dict[str, Any]], None]) -> None:
        self._write = write
        self._queues: dict[str, queue.Queue[dict[str, Any] | None]] = {}
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._open: dict[str, threading.Event] = {}
        self._answering = 0
        self._secrets: tuple[str, ...] = ()
        self._ended = threading.Event()

    def serve(self, lines: IO[bytes]) -> None:
        """Read requests until the stream ends; then cancel what is running and free the models."""
        self._start(_parse(lines.readline(MAXIMUM_LINE_BYTES)))
        while line := lines.readline(MAXIMUM_LINE_BYTES):
            try:
                self._take(_parse(line))
            except KnownError as error:
                self._write({"error": error.as_dict()})
        self._ended.set()
        for event in list(self._open.values()):
            event.set()
        for waiting in self._queues.values():
            waiting.put(None)
        for thread in self._threads:
            thread.join(timeout=5)

    def _start(self, greeting: dict[str, Any]) -> None:
        given = greeting.get("secrets")
        keys = {str(name): str(value) for name, value in given.items()} if isinstance(given, dict) else {}
        self._secrets = tuple(keys.values())
        project = Path(str(greeting["project"])) if greeting.get("project") else None
        models = greeting.get("models")
        for entry in models if isinstance(models, list) else []:
            if not isinstance(entry, dict) or "id" not in entry:
                raise BadInput("A model of the chat has no id", f"It says {str(entry)[:200]}.", "")
            name = str(entry["id"])
            self._queues[name] = queue.Queue()
            thread = threading.Thread(
                target=self._answer_all, args=(name, entry, keys, project), name=f"chat {name}", daemon=True
            )
            self._threads.append(thread)
            thread.start()

    def _take(self, request: dict[str, Any]) -> None:
        if "cancel" in request:
            with self._lock:
                event = self._open.get(str(request["cancel"]))
            if event is not None:
                event.set()
            return
        identity, model = str(request.get("id", "")), str(request.get("model", ""))
        if model not in self._queues:
            error = BadInput("Unknown model", f"The chat has no model {model!r}.", f"Known: {', '.join(self._queues)}.")
            self._write({"id": identity, "error": error.as_dict()})
            return
        with self._lock:
            self._open[identity] = threading.Event()
        self._queues[model].put(request)

    def _answer_all(self, name: str, entry: dict[str, Any], keys: dict[str, str], project: Path | None) -> None:
        """Body of a model's thread. A model that cannot be loaded answers every request with the reason."""
        model: ChatModel | None = None
        broken: KnownError | None = None
        try:
            model = open_model(entry, keys, self._threads_now, project)
            self._write({"ready": name})
        except Exception as error:  # noqa: BLE001 - whatever a library raises, the person gets words
            broken = self._told(error)
        while (request := self._queues[name].get()) is not None:
            identity = str(request.get("id", ""))
            try:
                if model is None:
                    raise broken or KnownError("The model is not loaded")
                self._answer(model, identity, request)
            except Exception as error:  # noqa: BLE001 - as above
                self._write({"id": identity, "error": self._told(error).as_dict()})
            finally:
                with self._lock:
                    self._open.pop(identity, None)
        if model is not None:
            model.close()

    def _answer(self, model: ChatModel, identity: str, request: dict[str, Any]) -> None:
        messages, sampling = _messages(request), _sampling(request)
        with self._lock:
            cancelled = self._open[identity]
            self._answering += 1
        try:
            turn = model.answer(
                messages,
                sampling,
                lambda text: self._write({"id": identity, "delta": text}),
                lambda: cancelled.is_set() or self._ended.is_set(),
            )
        finally:
            with self._lock:
                self._answering -= 1
        completion = turn.completion
        self._write(
            {
                "id": identity,
                "done": True,
                "text": completion.text,
                "tokens": completion.tokens,
                "tokens_per_second": round(turn.tokens_per_second, 2),
                "finish_reason": completion.finish_reason,
                "prompt_tokens": completion.prompt_tokens,
                "reused_tokens": turn.reused,
                "log_probs": [astuple(item) for item in completion.log_probs],
                "cost": round(completion.cost, 9),
            }
        )

    def _threads_now(self) -> int:
        """Two models that answer at the same time share the cores instead of fighting for them."""
        return max(1, settings.thread_count() // max(1, self._answering))

    def _told(self, error: Exception) -> KnownError:
        if isinstance(error, KnownError):
            return KnownError(*(secrets.redact(part, self._secrets) for part in error.as_dict().values()))
        detail = secrets.redact(f"{type(error).__name__}: {error}"[:1000], self._secrets)
        return KnownError("The chat broke", detail, "This is a fault of the program; please report it.")


def open_model(
    entry: dict[str, Any],
    keys: dict[str, str],
    threads: Callable[[], int] | None = None,
    project: Path | None = None,
) -> ChatModel:
    """The model of a `{"gguf": path}` or `{"teacher": spec}` entry. Raises `BadInput` when it names neither.

    What a teacher costs is written into the `project` folder, which also keeps the pictures that it is shown.
    """
    from kdstudio.jobs.chat_models import LlamaChat, TeacherChat

    context = int(entry.get("context_tokens") or 0)
    if entry.get("gguf"):
        return LlamaChat(Path(str(entry["gguf"])), context_tokens=context, threads=threads)
    try:
        spec = TeacherSpec(**entry["teacher"])
    except (KeyError, TypeError) as error:
        raise BadInput(
            "A model of the chat is not described", f"It says {str(entry)[:200]}.", "Choose it again."
        ) from error
    if spec.kind == "gguf":
        wish = context or int(spec.options.get("context_tokens") or 0)
        return LlamaChat(Path(spec.path), context_tokens=wish, threads=threads)
    from kdstudio.teachers.by_hand import HandLedger
    from kdstudio.teachers.opening import open_teacher

    return TeacherChat(open_teacher(spec, keys, ledger=HandLedger(project) if project else None))


def _parse(line: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(line)
        if not isinstance(parsed, dict):
            raise TypeError("it is not an object")
    except (ValueError, TypeError, RecursionError) as error:
        raise BadInput("The chat cannot read a request", f"{error}: {line[:200]!r}", "") from error
    return parsed


def _messages(request: dict[str, Any]) -> list[Message]:
    messages = request.get("messages")
    if not isinstance(messages, list) or not all(isinstance(item, dict) and "role" in item for item in messages):
        raise BadInput("The conversation cannot be read", "Each message needs a role and content.", "")
    return messages


def _sampling(request: dict[str, Any]) -> Sampling:
    given = request.get("sampling") or {}
    try:
        chosen = {key: given[key] for key in _SAMPLING_KEYS if key in given}
        chosen["stop"] = tuple(chosen.get("stop", ()))
        sampling = Sampling(**chosen)
        if sampling.max_tokens < 1 or not 0 <= sampling.temperature <= 10 or not 0 < sampling.top_p <= 1:
            raise ValueError(f"{given}")
        if not 0 <= sampling.log_probs <= MOST_LOG_PROBS:
            raise ValueError(f"{given}")
    except (TypeError, ValueError, KeyError) as error:
        raise BadInput("The sampling makes no sense", f"{error}"[:300], "Use a limit of 1 or more tokens.") from error
    return sampling


def run_chat_server() -> int:
    """Serve standard input until it ends; returns the process's exit code."""
    # Libraries print to standard output too: the protocol keeps the real one for itself.
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    lock = threading.Lock()

    def write(message: dict[str, Any]) -> None:
        data = json.dumps(message).encode() + b"\n"
        with lock:
            try:
                out.write(data)
            except OSError:
                os._exit(0)  # the window is gone: nobody is left to answer

    try:
        ChatServer(write).serve(sys.stdin.buffer)
    except KnownError as error:
        write({"error": error.as_dict()})
        return error.exit_code
    return 0


@functools.lru_cache(maxsize=1)
def _loaded(path: Path) -> LlamaChat:
    from kdstudio.jobs.chat_models import LlamaChat

    return LlamaChat(path)


def chat_once(
    gguf: Path,
    messages: Sequence[Message],
    *,
    max_tokens: int = 256,
    temperature: float = 0.0,
    seed: int = 0,
    on_text: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """One answer of a GGUF file: `text, tokens, tokens_per_second, finish_reason`. The model stays loaded for the next.

    Raises `BadInput` when the file or the conversation cannot be used.
    """
    sampling = Sampling(max_tokens=max_tokens, temperature=temperature, seed=seed)
    turn = _loaded(gguf.resolve()).answer(messages, sampling, on_text or (lambda _text: None), lambda: False)
    completion = turn.completion
    return {
        "text": completion.text,
        "tokens": completion.tokens,
        "tokens_per_second": round(turn.tokens_per_second, 2),
        "finish_reason": completion.finish_reason,
    }
