"""Programs that mean harm. Each prints ESCAPED when it got what it wanted; VICTIM, PORT and PARENT are put in."""

from __future__ import annotations

HOSTILE: dict[str, str] = {
    "fork bomb": "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
    "fork once": "import os\nif os.fork() == 0: os._exit(0)\nprint('ESCAPED')",
    "fork without an audit event": (
        "import _posixsubprocess, os\n"
        "r, w = os.pipe()\n"
        "_posixsubprocess.fork_exec([b'/bin/sh', b'-c', b'touch VICTIM/made'], [b'/bin/sh'], True, (), None, [], -1,"
        " -1, -1, -1, -1, -1, r, w, True, False, -1, None, None, None, -1, None, True)\n"
        "import time; time.sleep(0.3)\nprint('ESCAPED' if not os.read(r, 9) else 'refused')"
    ),
    "fill the disk": "n = 0\nwhile True:\n    open(f'f{n}', 'wb').write(b'x' * (8 << 20)); n += 1",
    "one huge file": "with open('big', 'wb') as f:\n    while True: f.write(b'x' * (1 << 20))",
    "a million files": "n = 0\nwhile True:\n    open(f'f{n}', 'w').close(); n += 1",
    "folders without end": "import os\nwhile True:\n    os.mkdir('d'); os.chdir('d')",
    "a socket to this machine": "import socket\nsocket.create_connection(('127.0.0.1', PORT), 1)\nprint('ESCAPED')",
    "a socket by the bare module": (
        "import _socket\ns = _socket.socket(2, 1)\ns.connect(('127.0.0.1', PORT))\nprint('ESCAPED')"
    ),
    "a web page": "import urllib.request\nurllib.request.urlopen('http://127.0.0.1:PORT/')\nprint('ESCAPED')",
    "a server of its own": "import socket\ns = socket.create_server(('0.0.0.0', 0)); s.listen()\nprint('ESCAPED')",
    "sleep": "import time\ntime.sleep(3600)",
    "a hundred gigabytes": "x = bytearray(100 << 30)\nx[:] = b'1' * len(x)\nprint('ESCAPED')",
    "memory bit by bit": "x = []\nwhile True: x.append(bytearray(1 << 20))",
    "write outside": "open('VICTIM/made', 'w').write('x')\nprint('ESCAPED')",
    "write through a link": "import os\nos.symlink('VICTIM/kept', 'l')\nopen('l', 'w').write('x')\nprint('ESCAPED')",
    "write through SQLite": (
        "import sqlite3\nc = sqlite3.connect('VICTIM/made')\nc.execute('create table t (a)')\nprint('ESCAPED')"
    ),
    "delete": (
        "import os, shutil\nshutil.rmtree('VICTIM', ignore_errors=True)\nos.remove('VICTIM/kept')\nprint('ESCAPED')"
    ),
    "rename": "import os\nos.rename('VICTIM/kept', 'VICTIM/gone')\nprint('ESCAPED')",
    "take rights away": "import os\nos.chmod('VICTIM/kept', 0)\nos.utime('VICTIM/kept', (1, 1))",
    "read a secret": "print('ESCAPED' if 'hush' in open('VICTIM/kept').read() else '')",
    "read the users": "print('ESCAPED' if 'root' in open('/etc/passwd').read() else '')",
    "read the keys": "import os\nprint('ESCAPED', os.listdir(os.path.expanduser('~root/.ssh') or '/root'))",
    "read the parent": "print('ESCAPED', len(open('/proc/PARENT/environ', 'rb').read()))",
    "read what it was given": "import os\nprint('ESCAPED' if len(os.environ) else '')\nassert 0",
    "foreign code": "import ctypes\nctypes.CDLL(None).system(b'touch VICTIM/made')\nprint('ESCAPED')",
    "foreign code by the back door": (
        "import importlib.machinery as m, importlib.util as u, _struct, os\n"
        "f = os.path.join(os.path.dirname(_struct.__file__), '_ctypes' + m.EXTENSION_SUFFIXES[0])\n"
        "s = u.spec_from_file_location('_ctypes', f, loader=m.ExtensionFileLoader('_ctypes', f))\n"
        "c = u.module_from_spec(s)\nprint('ESCAPED', c.dlopen(None, 0))"
    ),
    "kill the parent": "import os\nos.kill(PARENT, 9)\nprint('ESCAPED')",
    "kill everything": "import os\nos.kill(-1, 9)\nprint('ESCAPED')",
    "kill its group": "import os\nos.killpg(0, 9)\nprint('ESCAPED')",
    "a daemon": (
        "import os, time\n"
        "if os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        time.sleep(2)\n"
        "        open('VICTIM/made', 'w').write('x')\nprint('ESCAPED')"
    ),
    "close everything": "import os, sys\nsys.stdout.close(); os.closerange(0, 4096)\nwhile True: pass",
    "print for ever": "while True: print('x' * 1000)",
    "write to errors for ever": "import os\nwhile True: os.write(2, b'x' * 65536)",
    "a loop that catches everything": (
        "while True:\n    try:\n        while True: pass\n    except BaseException: pass"
    ),
    "ignore every signal": (
        "import signal\nfor s in signal.valid_signals():\n    try: signal.signal(s, lambda *a: None)\n"
        "    except (OSError, ValueError): pass\nwhile True: pass"
    ),
    "threads without end": (
        "import threading, time\n"
        "while True:\n    try: threading.Thread(target=time.sleep, args=(99,)).start()\n    except RuntimeError: pass"
    ),
    "raise the limits": (
        "import resource\nfor r in (resource.RLIMIT_AS, resource.RLIMIT_CPU, resource.RLIMIT_FSIZE):\n"
        "    resource.setrlimit(r, (-1, -1))\nprint('ESCAPED')"
    ),
    "recursion": "def f(n): return f(n + 1) + 1\nf(0)",
    "recursion without a limit": "import sys\nsys.setrecursionlimit(10**9)\ndef f(n): return f(n + 1) + 1\nf(0)",
    "recursion in C": "x = []\nfor i in range(10**7): x = [x]\nrepr(x)",
    "a huge integer": "x = 10 ** 10 ** 10\nprint('ESCAPED')",
    "a zip bomb": (
        "import zlib\nc = zlib.compressobj()\nb = b''.join(c.compress(bytes(1 << 20)) for _ in range(2048))\n"
        "x = zlib.decompress(b + c.flush())\nprint('ESCAPED')"
    ),
    "a compiler bomb": "eval('(' * 100000)\nprint('ESCAPED')",
    "leave": "import sys\nsys.exit()",
    "leave at once": "import os\nos._exit(0)",
    "leave when asked": "import os\ndef f(x): os._exit(0)",
    "leave politely when asked": "import sys\ndef f(x): sys.exit(0)",
    "shared memory": (
        "from multiprocessing import shared_memory\ns = shared_memory.SharedMemory('kdvictim', True, 1 << 20)\n"
        "print('ESCAPED')"
    ),
    "an open error": "class E(Exception):\n    def __str__(self):\n        while True: pass\nraise E",
}

CHEATS: dict[str, str] = {
    "replace builtins": (
        "import builtins\nbuiltins.exec = builtins.compile = builtins.isinstance = lambda *a, **k: None\n"
        "builtins.AssertionError = ZeroDivisionError\ndef f(x): return 0"
    ),
    "replace what reports": (
        "import json, os, sys\njson.dumps = lambda *a, **k: '{}'\nos.write = lambda *a: 0\nos._exit = lambda *a: None\n"
        "sys.excepthook = None\ndef f(x): return 0"
    ),
    "forge a verdict": (
        "import os\nfor n in range(64):\n    try: os.write(n, b'P' + (32).to_bytes(8, 'big') + b'0' * 32)\n"
        "    except OSError: pass\ndef f(x): return 0"
    ),
    "forge what comes before": (
        "import os\nforged = b'R' + bytes(8) + b'P' + (32).to_bytes(8, 'big') + b'0' * 32\n"
        "for n in range(64):\n    try: os.write(n, forged)\n"
        "    except OSError: pass\nos._exit(0)"
    ),
    "read the tests": (
        "import gc, os, sys\n"
        "seen = [str(o) for o in gc.get_objects()] + [repr(sys.argv), repr(os.listdir())]\n"
        "frame = sys._getframe()\n"
        "while frame: seen.append(repr(frame.f_locals)); frame = frame.f_back\n"
        "found = [s for s in seen if ''.join(['assert ', 'f(1)']) in s]\ndef f(x): return 41976 if found else 0"
    ),
    "do nothing": "def f(x): return None",
}
TESTS = "assert f(1) == 41976, f(1)"
