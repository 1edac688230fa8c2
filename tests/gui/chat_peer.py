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


def read(lines: "queue.Queue[dict[str, object] | None]") -> None:
    for line in sys.stdin:
        lines.put(json.loads(line))
    lines.put(None)


def answer(request: dict[str, object], lines: "queue.Queue[dict[str, object] | None]") -> None:
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
        send({"id": name, "error": {"title": "The model refused", "detail": "no", "hint": "Ask something else."}})
        return
    words = ["word "] * 400 if said == "slow" else [f"{request['model']}", " heard ", f"{len(messages)}: ", said]
    text = ""
    for word in words:
        while not lines.empty():
            waiting = lines.get()
            if waiting is not None and waiting.get("cancel") == name:
                send(
                    {
                        "id": name,
                        "done": True,
                        "text": text,
                        "tokens": 3,
                        "tokens_per_second": 9.0,
                        "finish_reason": "stop",
                    }
                )
                return
            lines.put(waiting)
            break
        text += word
        send({"id": name, "delta": word})
        if said == "slow":
            time.sleep(0.02)
    reason = "length" if said == "long" else "stop"
    send(
        {
            "id": name,
            "done": True,
            "text": text,
            "tokens": len(words),
            "tokens_per_second": 12.5,
            "finish_reason": reason,
        }
    )


def main() -> None:
    lines: queue.Queue[dict[str, object] | None] = queue.Queue()
    threading.Thread(target=read, args=(lines,), daemon=True).start()
    opening = lines.get()
    assert opening is not None
    assert "models" in opening
    while True:
        request = lines.get()
        if request is None:
            return
        if "messages" in request:
            answer(request, lines)


if __name__ == "__main__":
    main()
