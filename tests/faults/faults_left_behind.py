"""What a function may do to its process and still gets its result: descriptors, directories, streams, children."""

from __future__ import annotations

from support.cases import Case, Err, Ok

GRACE = ("--exit-grace", "2")


def ok(
    name: str, body: str, head: str = "", *, options: tuple[str, ...] = (), stdout: str = "", tail: str = ""
) -> Case:
    lines = "\n    ".join(body.strip().splitlines())
    return Case(name, f"{head}\ndef f():\n    {lines}\n    return 42\n{tail}", Ok(42, stdout=stdout), options=options)


SPAWN = "import multiprocessing, math, os"

CASES = [
    # Descriptors.
    ok("closes descriptors 0 to 4095", "os.closerange(0, 4096)", "import os"),
    ok("closes descriptors 3 to 4095", "os.closerange(3, 4096)", "import os"),
    ok("closes stdin, stdout and stderr", "os.closerange(0, 3)", "import os"),
    ok("closes each open descriptor by name", """
for name in os.listdir("/proc/self/fd"):
    try:
        os.close(int(name))
    except OSError:
        pass
""", "import os"),
    ok("puts /dev/null over descriptors 0 to 63", """
null = os.open("/dev/null", os.O_RDWR)
for fd in range(64):
    if fd != null:
        os.dup2(null, fd)
""", "import os"),
    ok("leaves no free descriptor", """
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
f.held = []
try:
    while True:
        f.held.append(open("/dev/null"))
except OSError:
    pass
""", "import resource"),
    Case("closes all descriptors, returns 50 MB", "import os\ndef f():\n    os.closerange(0, 4096)\n    return bytes(50 * 2**20)",
         Ok(where=lambda v: len(v) == 50 * 2**20)),
    Case("closes all descriptors, then raises", "import os\ndef f():\n    os.closerange(0, 4096)\n    raise ValueError('after closing')",
         Err("ValueError: after closing")),
    Case("closes all descriptors, then sys.exit", "import os, sys\ndef f():\n    os.closerange(0, 4096)\n    sys.exit('after closing')",
         Err("SystemExit: after closing")),
    Case("closes all descriptors, then segfaults", "import ctypes, os\ndef f():\n    os.closerange(0, 4096)\n    ctypes.string_at(0)",
         Err("SIGSEGV")),
    Case("closes all descriptors, returns a lock", "import os, threading\ndef f():\n    os.closerange(0, 4096)\n    return threading.Lock()",
         Err("(?i)pickle", "lock")),
    # Directories and files.
    ok("changes directory to /", "os.chdir('/')", "import os"),
    ok("changes to a directory that is gone", "d = tempfile.mkdtemp()\nos.chdir(d)\nos.rmdir(d)", "import os, tempfile"),
    ok("deletes _htmap_transfer", "shutil.rmtree('_htmap_transfer')", "import shutil"),
    ok("deletes both transfer directories", "shutil.rmtree('_htmap_transfer')\nshutil.rmtree('_htmap_user_transfer')", "import shutil"),
    ok("deletes everything in the scratch directory", """
for name in os.listdir('.'):
    shutil.rmtree(name) if os.path.isdir(name) else os.remove(name)
""", "import os, shutil"),
    ok("puts a file in place of _htmap_transfer", "shutil.rmtree('_htmap_transfer')\nopen('_htmap_transfer', 'w').close()", "import shutil"),
    ok("makes 0.out itself, as a directory", "os.makedirs('_htmap_transfer/0.out/full')", "import os"),
    ok("makes 0.out itself, as garbage", "open('_htmap_transfer/0.out', 'w').write('garbage')"),
    Case("deletes both transfer directories, then raises",
         "import shutil\ndef f():\n    shutil.rmtree('_htmap_transfer')\n    shutil.rmtree('_htmap_user_transfer')\n    raise ValueError('x')",
         Err("ValueError: x")),
    ok("makes an unreadable directory", "os.mkdir('closed')\nos.chmod('closed', 0)", "import os"),
    ok("makes symlinks that go round in circles", """
for i in range(8):
    os.makedirs('d%d' % i)
    os.symlink('..', 'd%d/up' % i)
os.symlink('me', 'me')
""", "import os"),
    ok("makes file names that are not UTF-8", "open(b'caf\\xe9.txt', 'w').close()"),
    ok("leaves umask 777", "os.umask(0o777)", "import os"),
    # Streams.
    ok("replaces sys.stdout by StringIO", "sys.stdout = io.StringIO()\nsys.stderr = io.StringIO()\nprint('unseen')", "import io, sys"),
    ok("sets sys.stdout to None", "sys.stdout = sys.stderr = sys.stdin = None", "import sys"),
    ok("closes sys.stdout and sys.stderr", "sys.stdout.close()\nsys.stderr.close()", "import sys"),
    ok("detaches sys.stdout", "sys.stdout.detach()", "import sys"),
    ok("sys.stdout raises on every use", """
class Broken:
    def __getattr__(self, name):
        raise RuntimeError('broken stream')
sys.stdout = sys.stderr = Broken()
""", "import sys"),
    ok("fills sys.stdout's buffer before closing", "sys.stdout = open(1, 'w', buffering=10**6, closefd=False)\nprint('buffered text')",
       "import sys", stdout="buffered text"),
    Case("prints 100 MB", "def f():\n    line = 'y' * 999\n    for _ in range(100_000):\n        print(line)\n    return 42",
         Ok(42, stdout_limit=120_000_000), after=lambda s, o: "" if o.stdout_size > 99_000_000 else "output is lost"),
    Case("prints 100 MB to stderr", """
        import sys
        def f():
            line = 'y' * 999
            for _ in range(100_000):
                print(line, file=sys.stderr)
            return 42
        """, Ok(42), after=lambda s, o: "" if (s.base / "stderr").stat().st_size > 99_000_000 else "output is lost"),
    ok("prints bytes that are not UTF-8", "sys.stdout.buffer.write(b'caf\\xe9 \\x00 \\x1b[0m')\nsys.stdout.flush()", "import sys"),
    ok("a child prints", "subprocess.run(['echo', 'from the child'], check=True)", "import subprocess", stdout="from the child"),
    # The interpreter's own parts.
    ok("breaks builtins", "import builtins\nbuiltins.open = builtins.print = None"),
    ok("breaks gzip and os", "gzip.open = os._exit = os.getcwd = os.write = None", "import gzip, os"),
    ok("clears sys.modules", "sys.modules.clear()", "import sys"),
    ok("clears sys.path and os.environ", "sys.path.clear()\nos.environ.clear()", "import os, sys"),
    ok("breaks time", "time.time = time.monotonic = time.sleep = lambda *a: 0", "import time"),
    ok("leaves an alarm running", "signal.alarm(1)\nsignal.signal(signal.SIGALRM, signal.SIG_IGN)", "import signal"),
    ok("leaves a trace function", "sys.settrace(lambda *a: 1 / 0)", "import sys"),
    ok("disables faulthandler and gc", "faulthandler.disable()\ngc.disable()", "import faulthandler, gc"),
    ok("ignores every signal", """
for number in range(1, 65):
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
""", "import signal"),
    ok("an exit handler raises", "atexit.register(lambda: 1 / 0)", "import atexit"),
    ok("an exit handler exits with 5", "atexit.register(os._exit, 5)", "import atexit, os"),
    ok("an exit handler hangs", "atexit.register(time.sleep, 1000)", "import atexit, time", options=GRACE),
    ok("a finaliser hangs", """
class Slow:
    def __del__(self):
        time.sleep(1000)
sys.modules['slow'] = Slow()
""", "import sys, time", options=GRACE),
    Case("an exit handler waits for SIGTERM to tidy up", """
        import atexit, os, signal, time
        def tidy(number, frame):
            open("tidy", "w").close()
            os._exit(0)
        def f():
            signal.signal(signal.SIGTERM, tidy)
            atexit.register(time.sleep, 1000)
            return 42
        """, Ok(42), options=GRACE, after=lambda s, o: "" if (s.dir / "tidy").exists() else "it was not asked to end"),
    ok("an exit handler segfaults", "atexit.register(ctypes.string_at, 0)", "import atexit, ctypes"),
    # Threads, children, grandchildren.
    ok("leaves a thread", "threading.Thread(target=time.sleep, args=(1000,)).start()", "import threading, time", options=GRACE),
    ok("leaves a daemon thread", "threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()", "import threading, time"),
    ok("leaves a thread that prints for ever", """
def loud():
    while True:
        print('still here', flush=True)
        time.sleep(0.01)
threading.Thread(target=loud).start()
""", "import threading, time", options=GRACE),
    ok("leaves a child", "subprocess.Popen(['sleep', '1000'])", "import subprocess", options=GRACE),
    ok("leaves a child that ignores SIGTERM", """
subprocess.Popen(['sh', '-c', 'trap "" TERM HUP INT; sleep 1000; sleep 1000'])
""", "import subprocess", options=GRACE),
    ok("leaves a child in a session of its own", "subprocess.Popen(['sleep', '1000'], start_new_session=True)", "import subprocess", options=GRACE),
    ok("leaves a grandchild", "subprocess.run(['sh', '-c', 'sleep 1000 & sleep 1000 & true'])", "import subprocess", options=GRACE),
    ok("leaves a daemon", """
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.chdir('/')
        os.closerange(0, 4096)
        time.sleep(1000)
    os._exit(0)
os.wait()
""", "import os, time", options=GRACE),
    ok("leaves a daemon with an empty environment", """
if os.fork() == 0:
    os.setsid()
    pid = os.fork()
    if pid == 0:
        os.chdir('/')
        os.execve('/bin/sleep', ['sleep', '1000'], {})
    with open('pids', 'w') as file:
        file.write(str(pid))
    os._exit(0)
os.wait()
time.sleep(0.2)
""", "import os, time", options=GRACE),
    ok("leaves 50 children", "for _ in range(50):\n    subprocess.Popen(['sleep', '1000'])", "import subprocess", options=GRACE),
    ok("a child holds stdout", "subprocess.Popen(['sh', '-c', 'sleep 1000'], stderr=1)", "import subprocess", options=GRACE),
    Case("a child is left and the function raises", "import subprocess\ndef f():\n    subprocess.Popen(['sleep', '1000'])\n    raise ValueError('x')",
         Err("ValueError: x"), options=GRACE),
    Case("a child is left and Python dies", """
        import os, subprocess
        def f():
            subprocess.Popen(['sleep', '1000'], start_new_session=True)
            os.kill(os.getpid(), 9)
        """, Err("SIGKILL"), options=GRACE),
    Case("a thread is left and Python dies", """
        import os, threading, time
        def f():
            threading.Thread(target=time.sleep, args=(1000,)).start()
            os._exit(6)
        """, Err("exit", r"\b6\b")),
    Case("fork, both return", "import os\ndef f():\n    return 'child' if os.fork() == 0 else 'parent'", Ok("parent"), options=GRACE),
    Case("fork, the child returns first", """
        import os, time
        def f():
            if os.fork() == 0:
                return "child"
            time.sleep(1)
            return "parent"
        """, Ok("parent"), options=GRACE),
    Case("fork, the child returns last", """
        import os, time
        def f():
            if os.fork() == 0:
                time.sleep(1)
                return "child"
            return "parent"
        """, Ok("parent"), options=GRACE),
    Case("fork, the child raises", """
        import os, time
        def f():
            if os.fork() == 0:
                raise ValueError("in the child")
            time.sleep(0.5)
            return "parent"
        """, Ok("parent"), options=GRACE),
    Case("fork, the child calls sys.exit", """
        import os, sys
        def f():
            pid = os.fork()
            if pid == 0:
                sys.exit(0)
            os.waitpid(pid, 0)
            return "parent"
        """, Ok("parent"), options=GRACE),
    Case("fork, the child exits at once", """
        import os
        def f():
            pid = os.fork()
            if pid == 0:
                os._exit(0)
            os.waitpid(pid, 0)
            return "parent"
        """, Ok("parent")),
    Case("fork, the child returns 50 MB meanwhile", """
        import os
        def f():
            return (b"c" if os.fork() == 0 else b"p") * 50_000_000
        """, Ok(where=lambda v: v == b"p" * 50_000_000), options=GRACE),
    # The ways to parallel work.
    ok("multiprocessing by fork", "with multiprocessing.get_context('fork').Pool(2) as pool:\n    assert pool.map(abs, [-1, -2]) == [1, 2]", SPAWN),
    ok("multiprocessing by spawn", "with multiprocessing.get_context('spawn').Pool(2) as pool:\n    assert pool.map(math.sqrt, [4, 9]) == [2, 3]", SPAWN),
    ok("multiprocessing by forkserver", "with multiprocessing.get_context('forkserver').Pool(2) as pool:\n    assert pool.map(math.sqrt, [4, 9]) == [2, 3]", SPAWN),
    ok("multiprocessing pool left open", "f.pool = multiprocessing.get_context('fork').Pool(2)", SPAWN, options=GRACE),
    ok("multiprocessing Manager", """
with multiprocessing.get_context('fork').Manager() as shared:
    seen = shared.dict()
    seen['x'] = 42
    assert dict(seen) == {'x': 42}
""", SPAWN),
    ok("multiprocessing shared memory", """
from multiprocessing import shared_memory
block = shared_memory.SharedMemory(create=True, size=1000)
block.close()
block.unlink()
"""),
    ok("ProcessPoolExecutor", "with concurrent.futures.ProcessPoolExecutor(2) as pool:\n    assert list(pool.map(math.sqrt, [4, 9])) == [2, 3]",
       "import concurrent.futures, math"),
    ok("ThreadPoolExecutor", "with concurrent.futures.ThreadPoolExecutor(2) as pool:\n    assert list(pool.map(math.sqrt, [4, 9])) == [2, 3]",
       "import concurrent.futures, math"),
    ok("a worker of a pool is killed", """
pool = concurrent.futures.ProcessPoolExecutor(1)
try:
    pool.submit(os._exit, 1).result()
except concurrent.futures.process.BrokenProcessPool:
    pass
""", "import concurrent.futures, concurrent.futures.process, os"),
    ok("asyncio", "async def main():\n    await asyncio.sleep(0.01)\nasyncio.run(main())", "import asyncio"),
    ok("asyncio with tasks left", """
loop = asyncio.new_event_loop()
loop.create_task(asyncio.sleep(1000))
loop.run_until_complete(asyncio.sleep(0.01))
""", "import asyncio"),
    ok("asyncio subprocess", """
async def main():
    process = await asyncio.create_subprocess_exec('true')
    assert await process.wait() == 0
asyncio.run(main())
""", "import asyncio"),
    ok("subprocess with a shell and a pipe", "assert subprocess.check_output('echo 42 | cat', shell=True) == b'42\\n'", "import subprocess"),
    ok("os.system", "assert os.system('exit 3') == 3 << 8", "import os"),
    ok("reads stdin", "assert sys.stdin.read() == ''", "import sys"),
    ok("a signal handler of its own", """
signal.signal(signal.SIGUSR1, lambda *a: None)
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
os.kill(os.getpid(), signal.SIGUSR1)
""", "import os, signal"),
    ok("joins its parent's process group and leaves a child", """
try:
    os.setpgid(0, os.getpgid(os.getppid()))
except OSError:
    pass
subprocess.Popen(['sleep', '1000'])
""", "import os, subprocess", options=GRACE),
]  # fmt: skip
