"""What common programs hold open: taken and restored by the real CRIU, or refused, and why."""

import asyncio

import pytest

from faas.errors import UnsupportedError
from faas.sandbox.capabilities import Resumption
from faas.sandbox.protocols import Command

pytestmark = [pytest.mark.needs_criu, pytest.mark.needs_root]

SECONDS = 30
WAIT = """
import os, sys, time
def wait():
    print("ready", flush=True)
    while not os.path.exists("/tmp/go"): time.sleep(0.01)
"""
KEPT = {
    "threads_and_an_established_connection": """
import socket, threading
server = socket.create_server(("127.0.0.1", 7000))
def echo():
    peer, _ = server.accept()
    while data := peer.recv(100): peer.sendall(data.upper())
threading.Thread(target=echo, daemon=True).start()
client = socket.create_connection(("127.0.0.1", 7000))
client.sendall(b"before"); assert client.recv(100) == b"BEFORE"
wait()
client.sendall(b"after"); assert client.recv(100) == b"AFTER"
""",
    "bytes_under_way_in_a_connection": """
import socket
server = socket.create_server(("127.0.0.1", 7000))
client = socket.create_connection(("127.0.0.1", 7000)); peer, _ = server.accept()
client.sendall(b"x" * 50_000)
reuses = [s.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR) for s in (server, client, peer)]
wait()
again = [s.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR) for s in (server, client, peer)]
assert [bool(n) for n in again] == [bool(n) for n in reuses] == [True, False, True]
got = b""
while len(got) < 50_000: got += peer.recv(65536)
assert got == b"x" * 50_000
""",
    "a_connection_of_ipv6": """
import socket
server = socket.create_server(("::1", 7000), family=socket.AF_INET6)
client = socket.create_connection(("::1", 7000)); peer, _ = server.accept()
wait()
client.sendall(b"six"); assert peer.recv(10) == b"six"
""",
    "datagrams": """
import socket
one, other = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
one.bind(("127.0.0.1", 7001)); other.bind(("127.0.0.1", 7002)); other.connect(("127.0.0.1", 7001))
wait()
other.send(b"hello"); assert one.recv(10) == b"hello"
""",
    "unix_sockets_by_name_and_without": """
import socket
server = socket.socket(socket.AF_UNIX); server.bind("/tmp/s"); server.listen()
hidden = socket.socket(socket.AF_UNIX); hidden.bind("\\0hidden"); hidden.listen()
pairs = []
for at, name in ((server, "/tmp/s"), (hidden, "\\0hidden")):
    client = socket.socket(socket.AF_UNIX); client.connect(name)
    pairs.append((client, at.accept()[0]))
pairs.append(socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET))
pairs.append(socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM))
for one, _ in pairs: one.send(b"before")
wait()
for one, other in pairs:
    assert other.recv(100) == b"before"
    other.send(b"after"); assert one.recv(100) == b"after"
""",
    "a_pipe_between_processes": """
import subprocess
child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
child.stdin.write(b"before\\n"); child.stdin.flush(); time.sleep(0.1)
wait()
child.stdin.write(b"after\\n"); child.stdin.close()
assert child.stdout.read() == b"before\\nafter\\n"
""",
    "epoll_eventfd_timerfd_and_signalfd": """
import ctypes, select, signal, struct
libc = ctypes.CDLL(None, use_errno=True)
event = os.eventfd(0)
timer = libc.timerfd_create(1, 0)
libc.timerfd_settime(timer, 0, struct.pack("qqqq", 0, 10_000_000, 0, 10_000_000), None)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
mask = ctypes.create_string_buffer(struct.pack("Q", 1 << (signal.SIGUSR1 - 1)).ljust(128, b"\\0"))
signals = libc.signalfd(-1, mask, 0)
poll = select.epoll()
for fd in (event, timer, signals): poll.register(fd, select.EPOLLIN)
wait()
os.eventfd_write(event, 3); os.kill(os.getpid(), signal.SIGUSR1); time.sleep(0.1)
assert {fd for fd, _ in poll.poll(5)} == {event, timer, signals}
assert os.eventfd_read(event) == 3 and len(os.read(signals, 128)) == 128
""",
    "inotify": """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
watch = libc.inotify_init()
os.makedirs("/tmp/watched", exist_ok=True)
assert libc.inotify_add_watch(watch, b"/tmp/watched", 0x100) >= 0
wait()
open("/tmp/watched/new", "w").close()
assert b"new" in os.read(watch, 4096)
""",
    "a_mapped_file_and_shared_memory": """
import mmap
with open("/tmp/mapped", "w+b") as file:
    file.truncate(8192); of_file = mmap.mmap(file.fileno(), 8192)
shared = mmap.mmap(-1, 4096)
of_file[:4] = b"file"; shared[:4] = b"anon"; of_file.flush()
ours, theirs = os.pipe(), os.pipe()
if not os.fork():
    os.read(ours[0], 1); shared[4:9] = b"child"; os.write(theirs[1], b"x"); os._exit(0)
wait()
os.write(ours[1], b"x"); os.read(theirs[0], 1)
assert shared[:9] == b"anonchild" and of_file[:4] == b"file"
of_file[:4] = b"more"; of_file.flush(); assert open("/tmp/mapped", "rb").read(4) == b"more"
""",
    "deleted_files": """
import tempfile
gone = open("/tmp/gone", "w+"); gone.write("still"); gone.flush(); os.unlink("/tmp/gone")
unnamed = tempfile.TemporaryFile(); unnamed.write(b"too"); unnamed.flush()
wait()
gone.seek(0); unnamed.seek(0)
assert (gone.read(), unnamed.read()) == ("still", b"too") and not os.path.exists("/tmp/gone")
""",
    "a_memfd": """
import mmap
fd = os.memfd_create("mine", os.MFD_ALLOW_SEALING); os.write(fd, b"in memory" + bytes(4087))
mapped = mmap.mmap(fd, 4096)
wait()
assert mapped[:9] == b"in memory"; mapped[:2] = b"IN"
assert os.pread(fd, 9, 0) == b"IN memory"
""",
    "locks_on_files": """
import fcntl
one = open("/tmp/flocked", "w"); fcntl.flock(one, fcntl.LOCK_EX)
other = open("/tmp/record", "w"); fcntl.lockf(other, fcntl.LOCK_EX)
wait()
if not os.fork():
    held = 0
    for name, lock in (("/tmp/flocked", fcntl.flock), ("/tmp/record", fcntl.lockf)):
        try: lock(open(name, "w"), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError: held += 1
    os._exit(held)
assert os.waitstatus_to_exitcode(os.wait()[1]) == 2
""",
    "a_renamed_file": """
one = open("/tmp/before", "w+"); one.write("moved"); one.flush()
os.rename("/tmp/before", "/tmp/after")
wait()
one.seek(0); assert one.read() == "moved"
one.write("!"); one.flush(); assert open("/tmp/after").read() == "moved!"
""",
    "a_working_directory_and_a_directory_that_is_open": """
os.makedirs("/tmp/in/side", exist_ok=True); at = os.open("/tmp/in", os.O_RDONLY)
os.chdir("/tmp/in/side")
wait()
assert os.getcwd() == "/tmp/in/side" and os.listdir(at) == ["side"]
""",
    "a_pool_of_processes": """
import multiprocessing
def square(n): return n * n
with multiprocessing.get_context("fork").Pool(2) as pool:
    assert pool.map(square, range(4)) == [0, 1, 4, 9]
    wait()
    assert pool.map(square, range(5)) == [0, 1, 4, 9, 16]
""",
    "a_loop_of_asyncio": """
import asyncio
async def main():
    async def echo(reader, writer):
        while data := await reader.read(100): writer.write(data); await writer.drain()
    server = await asyncio.start_server(echo, "127.0.0.1", 7000)
    reader, writer = await asyncio.open_connection("127.0.0.1", 7000)
    process = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1)
    await asyncio.to_thread(wait)
    writer.write(b"x"); assert await reader.read(1) == b"x"
    out, _ = await process.communicate(b"through"); assert out == b"through"
asyncio.run(main())
""",
    "a_pidfd": """
import select, subprocess
child = subprocess.Popen(["sleep", "1000"]); pidfd = os.pidfd_open(child.pid)
wait()
import signal
signal.pidfd_send_signal(pidfd, signal.SIGKILL)
assert select.select([pidfd], [], [], 5)[0]
""",
    "a_database": """
import sqlite3
db = sqlite3.connect("/tmp/db"); db.execute("pragma journal_mode=wal")
db.execute("create table t (n)"); db.commit(); db.execute("insert into t values (1)")
wait()
db.execute("insert into t values (2)"); db.commit()
assert [n for (n,) in sqlite3.connect("/tmp/db").execute("select n from t order by n")] == [1, 2]
""",
}


REFUSED = {
    "a_file_with_another_name_left": ("name was taken away", """
one = open("/tmp/first", "w+"); one.write("linked"); one.flush()
os.link("/tmp/first", "/tmp/second"); os.unlink("/tmp/first")
wait()
one.seek(0); assert one.read() == "linked"
"""),
    "shared_memory_by_name": ("/dev/shm", """
one = open("/dev/shm/mine", "w+"); one.write("x"); one.flush()
wait()
one.seek(0); assert one.read() == "x"
"""),
}  # fmt: skip


async def until(output, text: bytes) -> None:
    async with asyncio.timeout(SECONDS):
        while text not in output.stdout.read_bytes():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("name", KEPT)
async def test_it_goes_on_with(keeping, name):
    script = WAIT + KEPT[name] + "\nprint('well', flush=True)\n"
    sandbox = await keeping.sandbox(keeps_memory=True)
    output = keeping.output()
    command = Command(("/usr/bin/python3", "-c", script), timeout_ms=0)
    process = await sandbox.start("main", command, output)
    await until(output, b"ready")
    images = keeping.data_dir / "memory" / "images"
    images.mkdir(parents=True)
    async with sandbox.processes_taken(images):
        pass
    tar = keeping.data_dir / "tmp.tar"
    await sandbox.save_archive("/tmp", tar)
    again = await keeping.sandbox(keeps_memory=True, is_refilled=True)
    await again.put_archive(tar, path="/tmp")
    restored = keeping.output()
    resumption = Resumption("main", restored, is_continued=False)
    got = await again.restore_processes(images, {"main": resumption})
    for one, said, ended in ((sandbox, output, process), (again, restored, got["main"])):
        await one.write_file("/tmp/go", b"")
        result = await ended.wait()
        assert (result.code, said.stdout.read_bytes()[-5:]) == (0, b"well\n"), (
            said.stderr.read_text()
        )


@pytest.mark.parametrize("name", REFUSED)
async def test_it_is_refused_with_its_reason_and_goes_on_with(keeping, name):
    reason, script = REFUSED[name]
    sandbox = await keeping.sandbox(keeps_memory=True)
    output = keeping.output()
    whole = WAIT + script + "\nprint('well', flush=True)\n"
    command = Command(("/usr/bin/python3", "-c", whole), timeout_ms=0)
    process = await sandbox.start("main", command, output)
    await until(output, b"ready")
    images = keeping.data_dir / "memory" / "images"
    images.mkdir(parents=True)
    with pytest.raises(UnsupportedError, match=reason) as refused:
        async with sandbox.processes_taken(images):
            pass
    assert refused.value.hint
    await sandbox.write_file("/tmp/go", b"")
    assert (await process.wait()).code == 0, output.stderr.read_text()


ECHO = """
import socket
server = socket.create_server((ADDRESS, 7000), family=FAMILY, dualstack_ipv6=FAMILY == 10)
print("ready", flush=True)
peer, _ = server.accept()
while data := peer.recv(1000): peer.sendall(data)
"""
ASK = """
import itertools, socket
client = socket.create_connection(("127.0.0.1", 7000))
print("ready", flush=True)
for n in itertools.count():
    client.sendall(b"%d" % n); assert client.recv(100) == b"%d" % n
    time.sleep(0.001); print(n, flush=True)
"""
SHARED = """
import socket
server = socket.create_server(("127.0.0.1", 7000))
if not os.fork():
    if os.fork(): os._exit(0)
    os.setsid(); time.sleep(1000)
os.wait()
print("ready", flush=True)
while True: time.sleep(0.01); print("on", flush=True)
"""


@pytest.mark.parametrize(
    "scripts",
    [
        (f"ADDRESS, FAMILY = '127.0.0.1', 2\n{ECHO}", ASK),
        (f"ADDRESS, FAMILY = '::', 10\n{ECHO}", ASK),
        (SHARED,),
    ],
    ids=["connection", "connection_of_both_families", "shared_by_what_was_left_behind"],
)
async def test_what_would_be_torn_is_refused_and_all_run_on(keeping, scripts):
    sandbox = await keeping.sandbox(keeps_memory=True)
    for number, script in enumerate(scripts):
        output = keeping.output()
        argv = ("/usr/bin/python3", "-c", WAIT + script)
        command = Command(argv, timeout_ms=0, is_exclusive=False)
        await sandbox.start(f"c{number}", command, output)
        await until(output, b"ready")
    images = keeping.data_dir / "memory" / "images"
    images.mkdir(parents=True)
    with pytest.raises(UnsupportedError, match="share a socket or a connection"):
        async with sandbox.processes_taken(images):
            pass
    size = output.stdout.stat().st_size
    async with asyncio.timeout(SECONDS):
        while output.stdout.stat().st_size <= size + 100:
            await asyncio.sleep(0.01)
