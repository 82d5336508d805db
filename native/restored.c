/* A command on its way out of a sandbox and into another: what must be known of it besides its processes' memory,
 * and taking up processes that CRIU made, which are then children of the agent like any it started. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "command.h"
#include "terminal.h"

/* As in exec.c: past it sums of nanoseconds overflow. */
#define MILLISECONDS_MAX 3155760000000U

static uint64_t pipe_of(int fd) {
    struct stat s;
    return fd >= 0 && fstat(fd, &s) == 0 && S_ISFIFO(s.st_mode) ? s.st_ino : 0;
}

/* A terminal says how much waits only when it was looked at; those who write on it may not come to an end. */
#define TERMINAL_BYTES_MAX (1U << 20)

/* What they wrote before they were stopped belongs to what was before. */
static void drain(struct command *c) {
    if (c->input.is_terminal && c->streams[0].source >= 0) stream_drain(c, 0, TERMINAL_BYTES_MAX);
    if (c->input.is_terminal) return;
    for (int which = 0; which < 2; which++) {
        int waiting = 0;
        if (c->streams[which].source < 0 || ioctl(c->streams[which].source, FIONREAD, &waiting) < 0) continue;
        if (waiting) stream_drain(c, which, (uint64_t)waiting);
    }
}

/* What lies unread in the pipe of its input, copied without taking it: CRIU leaves it out of what we give it anew. */
static bool peek(struct command *c, struct buffer *unread) {
    int waiting = 0, ends[2];
    if (c->input.sink < 0 || c->input.is_terminal || ioctl(c->input.sink, FIONREAD, &waiting) < 0 || !waiting) return true;
    char path[40];
    snprintf(path, sizeof path, "/proc/self/fd/%d", c->input.sink);
    int source = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (source < 0) return false;
    bool done = pipe2(ends, O_CLOEXEC | O_NONBLOCK) == 0;
    if (done) {
        /* As large as the other: a piece of a page takes a whole place in a pipe. */
        fcntl(ends[1], F_SETPIPE_SZ, fcntl(source, F_GETPIPE_SZ));
        done = tee(source, ends[1], (size_t)waiting, SPLICE_F_NONBLOCK) == waiting && buffer_reserve(unread, (size_t)waiting);
        while (done && unread->length < (size_t)waiting) {
            ssize_t got = read(ends[0], unread->data + unread->length, (size_t)waiting - unread->length);
            done = got > 0;
            unread->length += got > 0 ? (size_t)got : 0;
        }
        close(ends[0]);
        close(ends[1]);
    }
    close(source);
    return done;
}

static uint64_t milliseconds_left(const struct command *c) {
    uint64_t now = now_ns();
    if (!c->deadline_ns) return 0;
    return c->deadline_ns > now ? (c->deadline_ns - now) / 1000000U + 1 : 1;
}

static bool is_root_of_another(const struct command *c, pid_t pid) {
    for (int i = 0; i < COMMANDS_MAX; i++) {
        const struct command *other = agent.commands[i];
        if (!other || other == c) continue;
        if (!other->is_supervised && other->state < ENDED && other->pid == pid) return true;
        for (unsigned root = 0; root < other->root_count; root++)
            if (other->roots[root] == pid) return true;
    }
    return false;
}

/* What nobody is known to have started is of the command that began alone; else what former commands that were restored
 * have left behind goes with the first of them. */
static bool takes_strays(const struct command *c) {
    if (c->is_exclusive) return true;
    for (int i = 0; i < COMMANDS_MAX; i++)
        if (agent.commands[i] && agent.commands[i]->is_lone && !agent.commands[i]->is_tree_gone) return agent.commands[i] == c;
    for (int i = 0; i < COMMANDS_MAX; i++)
        if (agent.commands[i] && agent.commands[i]->was_restored) return agent.commands[i] == c;
    return false;
}

static int roots_of(const struct command *c, pid_t *roots) {
    if (c->is_supervised) return supervisor_children(c->supervisor, roots);
    int count = supervisor_children(getpid(), roots), kept = 0;
    for (int i = 0; i < count; i++) {
        bool is_own = roots[i] == c->pid;
        for (unsigned root = 0; root < c->root_count; root++) is_own |= c->roots[root] == roots[i];
        if (is_own || (takes_strays(c) && !is_root_of_another(c, roots[i]))) roots[kept++] = roots[i];
    }
    return count < 0 ? count : kept;
}

static bool has_background(const struct command *c) {
    return c->state == ENDED && (c->is_supervised || c->is_lone ? !c->is_tree_gone : c->was_restored);
}

/* What it left behind may write on it still. */
static bool has_terminal(const struct command *c) { return c->input.is_terminal && c->streams[0].source >= 0; }

struct terminal {
    unsigned number;
    struct stat peer;
    struct buffer typed;
};

static bool look_at_terminal(const struct command *c, struct terminal *t, bool stands_still) {
    int master = c->streams[0].source, peer = terminal_peer(master);
    bool done = peer >= 0 && ioctl(master, TIOCGPTN, &t->number) == 0 && fstat(peer, &t->peer) == 0;
    close_fd(&peer);
    return done && (!stands_still || terminal_peek(master, &t->typed));
}

bool command_export(uint32_t slot, const struct frame *frame) {
    if (frame->length || frame->flags & ~EXPORT_STANDS_STILL) return false;
    struct command *c = command_find(slot, frame->id);
    int error = !c ? ENOENT : c->state != RUNNING && !has_background(c) ? ESRCH : c->input.file >= 0 ? EBUSY : 0;
    pid_t roots[ROOTS_MAX];
    int count = error ? 0 : roots_of(c, roots);
    if (!error && c->state == ENDED && count == 0) error = ESRCH;
    struct buffer unread = {0};
    struct terminal terminal = {0};
    if (count < 0) error = E2BIG;
    else if (!error && (!peek(c, &unread) || unread.length + c->input.length > CHUNK_MAX)) error = EBUSY;
    if (!error && has_terminal(c) && !look_at_terminal(c, &terminal, frame->flags & EXPORT_STANDS_STILL)) error = EBUSY;
    if (error) {
        answer_error(slot, frame->id, error, "export");
        buffer_free(&unread);
        buffer_free(&terminal.typed);
        return true;
    }
    drain(c);
    struct buffer *b = connection_answers(slot);
    size_t start = frame_begin(b, FRAME_EXPORTED, frame->id);
    put_u32(b, (uint32_t)c->pid);
    uint8_t flags = c->is_exclusive ? EXEC_EXCLUSIVE : 0;
    if (c->input.is_open) flags |= EXEC_STDIN_OPEN;
    if (c->state == ENDED) flags |= ADOPT_BACKGROUND;
    if (has_terminal(c)) flags |= EXEC_TTY;
    put_u8(b, flags);
    put_u8(b, c->input.is_last);
    put_u64(b, pipe_of(c->input.sink));
    for (int which = 0; which < 2; which++) {
        put_u64(b, pipe_of(c->streams[which].source));
        put_u64(b, c->streams[which].kept);
        put_u64(b, c->streams[which].total);
    }
    put_u64(b, c->output_max);
    put_u64(b, milliseconds_left(c));
    put_u64(b, c->grace_ns / 1000000U);
    put_u64(b, c->input.taken);
    put_u32(b, (uint32_t)(unread.length + c->input.length));
    put_bytes(b, unread.data, unread.length);
    put_bytes(b, c->input.held + c->input.start, c->input.length);
    put_u32(b, (uint32_t)count);
    for (int i = 0; i < count; i++) put_u32(b, (uint32_t)roots[i]);
    if (has_terminal(c)) {
        put_u32(b, terminal.number);
        put_u64(b, terminal.peer.st_dev);
        put_u32(b, (uint32_t)terminal.typed.length);
        put_bytes(b, terminal.typed.data, terminal.typed.length);
    }
    frame_end(b, start);
    buffer_free(&unread);
    buffer_free(&terminal.typed);
    return true;
}

struct adoption {
    char *name;
    uint32_t pid, count, held_length;
    uint8_t is_last;
    uint64_t deadline_ms, grace_ms, output_max, kept[2], total[2], taken;
    const uint8_t *held, *typed;
    uint32_t typed_length;
    pid_t roots[ROOTS_MAX];
};

static bool adoption_read(struct adoption *a, const struct frame *frame) {
    struct reader r = {frame->payload, frame->length, false};
    a->name = read_string(&r);
    a->pid = read_u32(&r);
    a->is_last = read_u8(&r);
    a->deadline_ms = read_u64(&r);
    a->grace_ms = read_u64(&r);
    a->output_max = read_u64(&r);
    for (int which = 0; which < 2; which++) {
        a->kept[which] = read_u64(&r);
        a->total[which] = read_u64(&r);
    }
    a->taken = read_u64(&r);
    a->held = read_blob(&r, &a->held_length);
    a->count = read_u32(&r);
    if (a->count > ROOTS_MAX) return false;
    for (uint32_t i = 0; i < a->count; i++) a->roots[i] = (pid_t)read_u32(&r);
    if (frame->flags & EXEC_TTY) a->typed = read_blob(&r, &a->typed_length);
    bool is_sane = (a->pid > 1 || frame->flags & ADOPT_BACKGROUND) && a->deadline_ms <= MILLISECONDS_MAX && a->grace_ms <= MILLISECONDS_MAX &&
                   a->held_length <= STDIN_WINDOW && a->taken >= a->held_length;
    return read_done(&r) && is_sane && !(frame->flags & ~(EXEC_EXCLUSIVE | EXEC_TTY | EXEC_STDIN_OPEN | ADOPT_BACKGROUND));
}

static bool is_pipe(int fd) {
    struct stat s;
    return fstat(fd, &s) == 0 && S_ISFIFO(s.st_mode) && fcntl(fd, F_SETFL, O_NONBLOCK) == 0;
}

static bool open_streams(struct command *c, const int *fds, bool is_fed) {
    static const enum watch_kind kinds[2] = {WATCH_STDOUT, WATCH_STDERR};
    for (int which = 0; which < 2; which++) {
        struct stream *s = &c->streams[which];
        s->spool = fcntl(fds[which], F_DUPFD_CLOEXEC, 3);
        s->source = fcntl(fds[2 + which], F_DUPFD_CLOEXEC, 3);
        if (s->spool < 0 || s->source < 0 || !is_pipe(s->source)) return false;
        if (!watch(s->source, kinds[which], c->slot, c->generation, EPOLLIN)) return false;
    }
    if (!is_fed) return true;
    c->input.sink = fcntl(fds[4], F_DUPFD_CLOEXEC, 3);
    return c->input.sink >= 0 && is_pipe(c->input.sink) && watch(c->input.sink, WATCH_STDIN, c->slot, c->generation, 0);
}

/* What was typed is put there before a process can read it: CRIU gives the terminal its settings later. */
static bool open_terminal(struct command *c, const int *fds, const struct adoption *a, bool is_fed) {
    unsigned number;
    struct stream *s = &c->streams[0];
    c->input.is_terminal = true;
    s->spool = fcntl(fds[0], F_DUPFD_CLOEXEC, 3);
    c->streams[1].spool = fcntl(fds[1], F_DUPFD_CLOEXEC, 3);
    s->source = fcntl(fds[2], F_DUPFD_CLOEXEC, 3);
    if (s->spool < 0 || c->streams[1].spool < 0 || s->source < 0) return false;
    if (ioctl(s->source, TIOCGPTN, &number) < 0 || fcntl(s->source, F_SETFL, O_NONBLOCK) < 0) return false;
    if (!terminal_type(s->source, a->typed, a->typed_length)) return false;
    if (!watch(s->source, WATCH_STDOUT, c->slot, c->generation, EPOLLIN)) return false;
    if (!is_fed) return true;
    c->input.sink = fcntl(s->source, F_DUPFD_CLOEXEC, 3);
    return c->input.sink >= 0 && watch(c->input.sink, WATCH_STDIN, c->slot, c->generation, 0);
}

static bool take_up(struct command *c, const struct adoption *a, const int *fds, uint8_t flags) {
    bool is_fed = flags & EXEC_STDIN_OPEN;
    c->pid = (pid_t)a->pid;
    c->is_exclusive = flags & EXEC_EXCLUSIVE;
    c->deadline_ns = a->deadline_ms ? c->started_ns + a->deadline_ms * 1000000U : 0;
    c->grace_ns = a->grace_ms * 1000000U;
    c->output_max = a->output_max;
    memcpy(c->roots, a->roots, sizeof c->roots);
    c->root_count = a->count;
    for (int which = 0; which < 2; which++) {
        c->streams[which].kept = a->kept[which];
        c->streams[which].total = a->total[which];
    }
    c->input.is_fed = c->input.is_open = is_fed;
    c->input.taken = a->taken - a->held_length;
    c->input.is_last = !is_fed;
    if (!(flags & EXEC_TTY ? open_terminal(c, fds, a, is_fed) : open_streams(c, fds, is_fed))) return false;
    if (is_fed) input_take(&c->input, c->input.taken, a->held, a->held_length, a->is_last);
    c->was_restored = true;
    c->state = flags & ADOPT_BACKGROUND ? ENDED : RUNNING;
    if (c->state == ENDED) c->pid = 0; /* long gone */
    return true;
}

bool command_adopt(uint32_t slot, const struct frame *frame) {
    struct adoption a = {0};
    int fds[5] = {-1, -1, -1, -1, -1};
    int needed = frame->flags & EXEC_TTY ? 3 : frame->flags & EXEC_STDIN_OPEN ? 5 : 4;
    bool is_fine = adoption_read(&a, frame) && connection_fd_count(slot) >= needed;
    for (int i = 0; is_fine && i < needed; i++) fds[i] = connection_take_fd(slot);
    if (is_fine) {
        int error = command_refusal(a.name, slot, frame->id);
        struct command *c = error ? NULL : command_admit(a.name);
        if (!error && !c) error = ENOMEM;
        if (c && !take_up(c, &a, fds, frame->flags)) {
            error = errno ? errno : EINVAL;
            command_forget(c);
        }
        if (error) {
            answer_error(slot, frame->id, error, "adopt");
        } else {
            command_attach_to(c, slot, frame->id);
            c->changed = c->state == ENDED ? 0 : c->attached; /* nothing follows its EXIT */
            command_put_started(c, slot);
            if (c->state == ENDED) command_put_exit(c, slot);
            else input_pump(c);
        }
    }
    for (int i = 0; i < 5; i++) close_fd(&fds[i]);
    free(a.name);
    return is_fine;
}
