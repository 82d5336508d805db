"""The life of a command, as PROTOCOL.md promises it."""

import contextlib
import errno
import os
import signal
import struct
import threading
import time
from pathlib import Path

import pytest
from tests.native.wire import (
    ATTACH,
    CANCELLED,
    ERROR,
    EXCLUSIVE,
    EXEC,
    EXIT,
    EXITED,
    LIST,
    OUTPUT,
    RELEASE,
    RESIZE,
    SIGNAL,
    SIGNALLED,
    STARTED,
    STDIN_OK,
    STDIN_OPEN,
    TIMED_OUT,
    TTY,
    Exit,
    blob,
    count_of,
    error_of,
    exec_payload,
    frame,
    read_blob,
)

BOTH = pytest.mark.parametrize("flags", [EXCLUSIVE, 0], ids=["exclusive", "shared"])


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def until_gone(pid: int) -> None:
    while is_running(pid):
        time.sleep(0.005)


def taken(answer) -> int:
    assert answer.type == STDIN_OK, error_of(answer)
    return struct.unpack("<Q", answer.payload)[0]


@BOTH
def test_output_and_code_of_a_command_arrive(run, flags):
    command = run("sh", "-c", "echo out; echo err >&2; exit 3", flags=flags)
    ended = command.wait()
    assert (ended.reason, ended.code, ended.signal) == (EXITED, 3, 0)
    assert (command.output, command.errors) == (b"out\n", b"err\n")
    assert (ended.stdout_kept, ended.stderr_total) == (4, 4)


@BOTH
def test_a_program_that_is_not_found_exits_127(run, flags):
    command = run("no-such-program", flags=flags)
    command.started()
    assert command.wait().code == 127
    assert command.errors == b"faas: no-such-program: No such file or directory\n"


@BOTH
def test_a_file_that_is_not_executable_exits_126(run, place, flags):
    (place / "plain").write_text("echo hi")
    command = run(str(place / "plain"), flags=flags)
    assert command.wait().code == 126
    assert b"Permission denied" in command.errors


@BOTH
def test_a_missing_working_directory_exits_126(run, flags):
    command = run("true", cwd="/no/such/place", flags=flags)
    assert command.wait().code == 126
    assert command.errors == b"faas: /no/such/place: No such file or directory\n"


def test_programs_are_looked_up_in_the_path_of_the_given_environment(run, place):
    program = place / "greet"
    program.write_text("#!/bin/sh\necho found\n")
    program.chmod(0o755)
    command = run("greet", env=[f"PATH=/nowhere:{place}"])
    command.wait()
    assert command.output == b"found\n"


def test_the_environment_is_what_was_given_and_nothing_else(run):
    command = run("/usr/bin/env", env=["A=1", "B=two words"])
    command.wait()
    assert command.output == b"A=1\nB=two words\n"


@BOTH
def test_a_command_has_no_descriptor_but_the_first_three(run, flags):
    command = run("/bin/sh", "-c", "ls /proc/self/fd | wc -l", flags=flags)
    command.wait()
    assert int(command.output) == 4  # the fourth is the directory that ls reads


@BOTH
def test_a_command_has_no_capability_and_no_new_privileges(run, flags):
    command = run("grep", "-E", "^(Cap|NoNew)", "/proc/self/status", flags=flags)
    command.wait()
    lines = dict(line.split(b":\t") for line in command.output.splitlines())
    assert lines.pop(b"NoNewPrivs") == b"1"
    if os.geteuid() != 0:
        del lines[b"CapBnd"]  # only root can empty it
    assert set(lines.values()) == {b"0" * 16}


def test_signals_are_as_by_default(run):
    command = run("grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status")
    command.wait()
    assert {line.split()[1] for line in command.output.splitlines()} == {b"0" * 16}


def test_a_command_killed_by_a_signal_exits_128_plus_its_number(run):
    ended = run("sh", "-c", "kill -TERM $$").wait()
    assert (ended.reason, ended.signal, ended.code) == (SIGNALLED, signal.SIGTERM, 143)


def test_output_past_the_cap_is_counted_and_thrown_away(run):
    command = run("sh", "-c", "head -c 5000000 /dev/zero; echo end >&2", output_bytes_max=1000)
    ended = command.wait()
    assert (ended.stdout_kept, ended.stdout_total) == (1000, 5_000_000)
    assert command.output == bytes(1000)
    assert command.errors == b"end\n"


def test_a_spool_that_cannot_be_written_is_a_cap_reached(host, place):
    full = os.open("/dev/full", os.O_WRONLY)
    errors = os.open(place / "err", os.O_RDWR | os.O_CREAT)
    host.send(frame(EXEC, 9, exec_payload(["echo", "hi"]), EXCLUSIVE), [full, errors])
    os.close(full)
    os.close(errors)
    ended = Exit.parse(host.expect(9, EXIT).payload)
    assert (ended.code, ended.stdout_kept, ended.stdout_total) == (0, 0, 3)


@BOTH
def test_the_deadline_ends_the_whole_tree(run, flags):
    script = "setsid sleep 1000 & echo $!; (trap '' TERM; sleep 1001) & echo $!; sleep 1002"
    command = run("sh", "-c", script, deadline_ms=150, flags=flags)
    ended = command.wait()
    assert (ended.reason, ended.code) == (TIMED_OUT, 124)
    for pid in command.output.split():
        until_gone(int(pid))


@BOTH
def test_a_grace_lets_the_command_end_itself(run, flags):
    script = "trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.01; done"
    command = run("sh", "-c", script, deadline_ms=100, grace_ms=15_000, flags=flags)
    ended = command.wait()
    assert (ended.reason, ended.code) == (TIMED_OUT, 124)
    assert command.output == b"ready\nbye\n"


@BOTH
def test_after_the_grace_it_is_killed(run, flags):
    script = "trap '' TERM; while :; do sleep 0.01; done"
    ended = run("sh", "-c", script, deadline_ms=50, grace_ms=50, flags=flags).wait()
    assert (ended.reason, ended.code, ended.signal) == (TIMED_OUT, 124, signal.SIGKILL)


@BOTH
def test_killing_the_tree_is_a_cancellation(run, flags):
    command = run("sh", "-c", "setsid sleep 1000 & echo $!; wait", flags=flags)
    command.wait_for_output(b"\n")
    count_of(command.signal(signal.SIGKILL, tree=True))
    ended = command.wait()
    assert (ended.reason, ended.code) == (CANCELLED, 137)
    until_gone(int(command.output))


@BOTH
def test_a_signal_reaches_the_process_group(run, flags):
    command = run(
        "sh", "-c", "trap 'exit 7' USR1; echo ready; while :; do sleep 0.01; done", flags=flags
    )
    command.wait_for_output(b"ready")
    count_of(command.signal(signal.SIGUSR1))
    assert command.wait().code == 7


def test_nothing_is_left_of_an_exclusive_command(run):
    command = run("sh", "-c", "setsid sleep 1000 & echo $!")
    assert command.wait().code == 0
    assert not is_running(int(command.output))


def test_background_processes_of_a_shared_command_live_on(run):
    command = run("sh", "-c", "sleep 1000 & echo $!", flags=0)
    assert command.wait().code == 0
    pid = int(command.output)
    assert is_running(pid)
    count_of(command.signal(signal.SIGKILL, tree=True))
    until_gone(pid)


def test_later_output_of_background_processes_is_thrown_away(run, place):
    gate = place / "gate"
    os.mkfifo(gate)
    script = f"(cat {gate}; echo late; echo done > {place}/done) & echo early"
    command = run("sh", "-c", script, flags=0)
    command.wait()
    gate.write_bytes(b"")
    while not (place / "done").exists():
        time.sleep(0.005)
    assert command.output == b"early\n"


def test_several_commands_run_at_once(run):
    commands = [run("sh", "-c", "read x; echo $x", flags=STDIN_OPEN) for _ in range(5)]
    for index, command in enumerate(commands):
        command.started()
        command.stdin(0, b"%d\n" % index, last=True)
    assert [command.wait().code for command in commands] == [0] * 5
    assert [command.output for command in commands] == [b"%d\n" % i for i in range(5)]


def test_a_killed_supervisor_takes_its_tree_along(run, agent):
    command = run("sh", "-c", "setsid sleep 1000 & echo $!; wait", flags=0)
    command.wait_for_output(b"\n")
    pid = command.started()[0]
    supervisor = int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
    os.kill(supervisor, signal.SIGKILL)
    assert command.wait().signal == signal.SIGKILL
    until_gone(int(command.output))


def test_a_stopped_supervisor_does_not_keep_its_tree_alive(run):
    command = run("sh", "-c", "setsid sleep 1000 & echo $!; wait", flags=0)
    command.wait_for_output(b"\n")
    pid = command.started()[0]
    supervisor = int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
    os.kill(supervisor, signal.SIGSTOP)
    count_of(command.signal(signal.SIGKILL, tree=True))
    assert command.wait().reason == CANCELLED
    until_gone(int(command.output))


def test_a_supervisor_that_is_stopped_again_and_again_is_killed(run):
    command = run("sleep", "1000", flags=0, deadline_ms=50)
    pid = command.started()[0]
    supervisor = int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])

    def keep_stopping():
        with contextlib.suppress(ProcessLookupError):
            while True:
                os.kill(supervisor, signal.SIGSTOP)

    stopper = threading.Thread(target=keep_stopping)
    stopper.start()
    assert command.wait().reason == TIMED_OUT
    stopper.join()
    until_gone(pid)


def test_stdin_is_empty_unless_asked_for(run):
    command = run("cat")
    assert command.wait().code == 0
    assert command.output == b""


def test_stdin_frames_reach_the_command_and_may_be_repeated(run):
    command = run("cat", flags=EXCLUSIVE | STDIN_OPEN)
    assert taken(command.stdin(0, b"hello ")) == 6
    assert taken(command.stdin(3, b"lo world")) == 11
    assert taken(command.stdin(0, b"hello")) == 11
    assert taken(command.stdin(11, b"", last=True)) == 11
    command.wait()
    assert command.output == b"hello world"


def test_a_gap_in_stdin_is_refused(run):
    command = run("cat", flags=EXCLUSIVE | STDIN_OPEN)
    assert error_of(command.stdin(5, b"x"))[0] == errno.EINVAL
    command.stdin(0, b"", last=True)
    assert command.wait().code == 0


def test_stdin_after_its_end_is_refused_but_what_was_taken_may_come_again(run):
    command = run("sh", "-c", "cat; sleep 1000", flags=EXCLUSIVE | STDIN_OPEN)
    assert taken(command.stdin(0, b"all", last=True)) == 3
    assert taken(command.stdin(0, b"all", last=True)) == 3
    assert error_of(command.stdin(3, b"more"))[0] == errno.EPIPE
    command.signal(signal.SIGKILL, tree=True)
    command.wait()


def test_stdin_that_was_not_asked_for_is_refused(run):
    command = run("sleep", "1000")
    assert error_of(command.stdin(0, b"x"))[0] == errno.EINVAL
    command.signal(signal.SIGKILL, tree=True)
    command.wait()


def test_a_command_that_does_not_read_holds_one_window_of_stdin(run):
    command = run("sh", "-c", "read go; cat | wc -c", flags=EXCLUSIVE | STDIN_OPEN)
    data = b"\n" + bytes(3 << 20)
    at = taken(command.stdin(0, data[: 900 << 10]))
    while at < len(data):
        chunk = data[at : at + (900 << 10)]
        at = taken(command.stdin(at, chunk, last=at + len(chunk) == len(data)))
    command.wait()
    assert int(command.output) == 3 << 20


def test_stdin_of_a_stuck_command_stops_at_the_window(run):
    command = run("sleep", "1000", flags=EXCLUSIVE | STDIN_OPEN)
    at = 0
    for _ in range(4):
        at = taken(command.stdin(at, bytes(900 << 10)))
    assert 1 << 20 <= at <= (1 << 20) + (128 << 10)
    command.signal(signal.SIGKILL, tree=True)
    command.wait()


def test_a_passed_file_is_stdin(run, place):
    (place / "in").write_bytes(b"from a file")
    with (place / "in").open("rb") as file:
        command = run("cat", stdin_fd=file.fileno())
    command.wait()
    assert command.output == b"from a file"


def test_a_passed_file_goes_before_stdin_frames(run, place):
    content = os.urandom(700_000)
    (place / "in").write_bytes(content)
    with (place / "in").open("rb") as file:
        command = run("cat", stdin_fd=file.fileno(), flags=EXCLUSIVE | STDIN_OPEN)
    while taken(command.stdin(0, b" and frames", last=True)) < 11:
        time.sleep(0.005)
    command.wait()
    assert command.output == content + b" and frames"


def test_a_socket_is_no_stdin(host, place):
    import socket

    ends = socket.socketpair()
    files = [os.open(place / name, os.O_RDWR | os.O_CREAT) for name in ("out", "err")]
    host.send(frame(EXEC, 9, exec_payload(["cat"]), EXCLUSIVE | 8), [*files, ends[0].fileno()])
    assert error_of(host.expect(9, ERROR))[0] == errno.EINVAL
    for end in ends:
        end.close()
    for fd in files:
        os.close(fd)


@BOTH
def test_a_terminal_is_one(run, flags):
    command = run(
        "sh",
        "-c",
        "test -t 0 && test -t 1 && test -t 2 && stty size < /dev/tty",
        flags=flags | TTY,
        rows=33,
        columns=111,
    )
    assert command.wait().code == 0
    assert command.output == b"33 111\r\n"


def test_a_terminal_can_be_resized_and_typed_into(run, host):
    command = run(
        "sh", "-c", "echo ready; read x; stty size; echo got $x", flags=EXCLUSIVE | TTY | STDIN_OPEN
    )
    command.wait_for_output(b"ready")
    count_of(host.call(RESIZE, struct.pack("<HH", 50, 132), id_=command.id))
    command.stdin(0, b"typed\n")
    assert command.wait().code == 0
    assert b"50 132\r\ngot typed\r\n" in command.output


def test_the_end_of_a_terminals_stdin_is_seen(run):
    command = run("cat", flags=EXCLUSIVE | TTY | STDIN_OPEN)
    command.stdin(0, b"line\n", last=True)
    assert command.wait().code == 0
    assert command.output.count(b"line") == 2  # the echo, and cat's


def test_resizing_what_is_no_terminal_is_refused(run, host):
    command = run("sleep", "1000")
    assert error_of(host.call(RESIZE, struct.pack("<HH", 1, 1), id_=command.id))[0] == errno.ENOTTY
    command.signal(signal.SIGKILL, tree=True)
    command.wait()


def test_another_host_attaches_to_a_running_command(run, agent):
    command = run("sh", "-c", "echo one; read x; echo two", flags=EXCLUSIVE | STDIN_OPEN)
    command.wait_for_output(b"one")
    other = agent.connect()
    other.send(frame(ATTACH, 77, blob(command.name)))
    pid, state, offset = struct.unpack("<IBQ", other.expect(77, STARTED).payload)
    assert (pid, state, offset) == (command.started()[0], 0, 0)
    assert struct.unpack("<QQ", other.expect(77, OUTPUT).payload) == (4, 0)
    command.stdin(0, b"go\n")
    assert Exit.parse(other.expect(77, EXIT).payload) == command.wait()


def test_a_command_outlives_its_host_and_can_be_attached_to_after_its_end(agent, place):
    from tests.native.wire import Run

    first = agent.connect()
    command = Run(first, place, ["sh", "-c", "sleep 0.05; echo late; exit 5"])
    command.started()
    first.close()
    second = agent.connect()
    second.send(frame(ATTACH, 3, blob(command.name)))
    assert Exit.parse(second.expect(3, EXIT).payload).code == 5
    assert command.output == b"late\n"
    second.send(frame(ATTACH, 4, blob(command.name)))
    assert second.expect(4, STARTED).payload[4] == 1
    second.expect(4, EXIT)


def test_attaching_to_nothing_is_refused(host):
    assert error_of(host.call(ATTACH, blob("nobody")))[0] == errno.ENOENT
    assert error_of(host.call(ATTACH, blob("")))[0] == errno.ENOENT


def test_commands_are_listed_until_released(run, host):
    command = run("sh", "-c", "echo hi")
    command.wait()
    listed = host.call(LIST).payload
    name, at = read_blob(listed, 4)
    assert (listed[:4], name.decode()) == (b"\1\0\0\0", command.name)
    assert struct.unpack_from("<BQQ", listed, at + 4) == (1, 3, 0)
    count_of(command.release())
    assert host.call(LIST).payload == bytes(4)
    assert error_of(command.release())[0] == errno.ENOENT


def test_a_running_command_is_not_released(run, host):
    command = run("sleep", "1000")
    command.started()
    assert error_of(host.call(RELEASE, id_=command.id))[0] == errno.EBUSY
    command.signal(signal.SIGKILL, tree=True)
    command.wait()


def test_a_released_name_can_be_used_again_while_background_output_goes_on(run, place):
    first = run("sh", "-c", "yes & echo $!", flags=0, name="again")
    first.wait()
    pid = int(first.output.split()[0])
    count_of(first.release())
    second = run("echo", "fresh", flags=0, name="again")
    assert second.wait().code == 0
    assert is_running(pid)
    os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("name", ["", "a/b", "a b", "x" * 65, "é"])
def test_bad_names_are_refused(run, name):
    assert (
        run("true", name=name or None).refused() == errno.EINVAL
        if name and "/" not in name
        else True
    )


def test_a_name_is_used_once(run):
    run("true", name="once").wait()
    assert run("true", name="once").refused() == errno.EEXIST


def test_an_id_names_one_command(run, host, place):
    command = run("sleep", "1000")
    fds = [os.open(place / name, os.O_RDWR | os.O_CREAT) for name in ("o", "e")]
    host.send(frame(EXEC, command.id, exec_payload(["true"], name="other"), EXCLUSIVE), fds)
    for fd in fds:
        os.close(fd)
    assert error_of(host.expect(command.id, ERROR))[0] == errno.EEXIST
    command.signal(signal.SIGKILL, tree=True)
    command.wait()


def test_256_commands_are_remembered_and_no_more(host, place):
    fds = [os.open(place / name, os.O_RDWR | os.O_CREAT) for name in ("o", "e")]
    for number in range(256):
        host.send(
            frame(
                EXEC, 1000 + number, exec_payload(["/nonexistent"], name=f"n{number}"), EXCLUSIVE
            ),
            fds,
        )
        host.expect(1000 + number, EXIT)
    host.send(frame(EXEC, 2000, exec_payload(["/nonexistent"], name="more"), EXCLUSIVE), fds)
    assert error_of(host.expect(2000, ERROR))[0] == errno.EAGAIN
    count_of(host.call(RELEASE, id_=1000))
    host.send(frame(EXEC, 2001, exec_payload(["/nonexistent"], name="more"), EXCLUSIVE), fds)
    host.expect(2001, EXIT)
    for fd in fds:
        os.close(fd)


def test_an_empty_argument_list_is_refused(run):
    assert run().refused() == errno.EINVAL


def test_signals_to_what_is_not_there_are_refused(run, host):
    assert error_of(host.call(SIGNAL, struct.pack("<I", 9), id_=12345))[0] == errno.ENOENT
    command = run("true")
    command.wait()
    assert error_of(command.signal(signal.SIGTERM))[0] == errno.ESRCH


@pytest.mark.parametrize("number", [0, 65, 1 << 31])
def test_signals_that_do_not_exist_are_refused(run, number):
    command = run("sleep", "1000")
    assert error_of(command.signal(number))[0] == errno.EINVAL
    command.signal(signal.SIGKILL, tree=True)
    command.wait()


def test_arguments_that_are_too_long_exit_126(run):
    command = run("true", "x" * 200_000)
    assert command.wait().code == 126
    assert b"Argument list too long" in command.errors
