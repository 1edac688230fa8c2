"""A stand-in on the other end of the chat's pipe: speaks the server's protocol, and misbehaves on request.

What it does is told by the message: "crash" dies at once, "noise" prints what is no protocol, "fail" answers with an
error, "slow" streams until it is cancelled; anything else is answered with the model's name and what it was told.
"""

import json
import os
import queue
import sys
import threading
import time


def send(message: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


class Peer:
    """Reads requests in one thread, answers them one after the other in another."""

    def __init__(self) -> None:
        self.requests: queue.Queue[dict[str, object] | None] = queue.Queue()
        self.cancelled: set[str] = set()

    def read(self) -> None:
        for line in sys.stdin:
            message = json.loads(line)
            if "cancel" in message:
                self.cancelled.add(str(message["cancel"]))
            else:
                self.requests.put(message)
        self.requests.put(None)

    def answer(self, request: dict[str, object]) -> None:
        name, messages = str(request["id"]), request["messages"]
        assert isinstance(messages, list)
        said = str(messages[-1]["content"])
        if said == "crash":
            sys.stderr.write("out of memory; key sk-abcdefgh12345678\n")
            sys.stderr.flush()
            os._exit(3)
        if said == "noise":
            sys.stdout.write("llama.cpp says hello\n[1, 2]\n" + "x" * 100 + "\n\xff\n")
        if said == "fail":
            error = {"title": "The model refused", "detail": "no", "hint": "Ask something else."}
            send({"id": name, "error": error})
            return
        words = ["word "] * 400 if said == "slow" else [f"{request['model']}", " heard ", f"{len(messages)}: ", said]
        text = ""
        for word in words:
            if name in self.cancelled:
                break
            text += word
            send({"id": name, "delta": word})
            time.sleep(0.02 if said == "slow" else 0)
        reason = "length" if said == "long" else "stop"
        figures = {"tokens": len(words), "tokens_per_second": 12.5, "finish_reason": reason}
        send({"id": name, "done": True, "text": text, **figures})

    def serve(self) -> None:
        threading.Thread(target=self.read, daemon=True).start()
        opening = self.requests.get()
        assert opening is not None
        models = opening["models"]
        assert isinstance(models, list)
        for model in models:
            send({"ready": model["id"]})
        while (request := self.requests.get()) is not None:
            self.answer(request)


if __name__ == "__main__":
    Peer().serve()
