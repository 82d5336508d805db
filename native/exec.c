/* The EXEC frame: what it asks for, the pipes or the terminal, and who starts the command. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "command.h"

#ifndef TIOCGPTPEER
#define TIOCGPTPEER 0x5441
#endif
#define NAME_LETTERS "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"
/* A century: past it sums of nanoseconds overflow. */
#define MILLISECONDS_MAX 3155760000000U

struct request {
    uint64_t deadline_ms, grace_ms, output_max;
    uint32_t uid, gid;
    struct winsize size;
    char *name, *directory, **argv, **env;
    uint8_t flags;
};

static void free_list(char **list) {
    for (char **item = list; item && *item; item++) free(*item);
    free(list);
}

static void request_free(struct request *q) {
    free(q->name);
    free(q->directory);
    free_list(q->argv);
    free_list(q->env);
}

static char **read_list(struct reader *r) {
    uint32_t count = read_u32(r);
    if (count > STRINGS_MAX || count > r->left / 4) r->bad = true;
    if (r->bad) return NULL;
    char **list = calloc((size_t)count + 1, sizeof *list);
    if (!list) r->bad = true;
    for (uint32_t i = 0; i < count && !r->bad; i++) list[i] = read_string(r);
    return list;
}

static bool request_read(struct request *q, const struct frame *frame) {
    struct reader r = {frame->payload, frame->length, false};
    q->flags = frame->flags;
    q->deadline_ms = read_u64(&r);
    q->grace_ms = read_u64(&r);
    q->output_max = read_u64(&r);
    q->uid = read_u32(&r);
    q->gid = read_u32(&r);
    q->size.ws_row = read_u16(&r);
    q->size.ws_col = read_u16(&r);
    q->name = read_string(&r);
    q->directory = read_string(&r);
    q->argv = read_list(&r);
    q->env = read_list(&r);
    return read_done(&r) && frame->flags <= 15;
}

int command_refusal(const char *name, uint32_t slot, uint32_t id) {
    size_t length = strlen(name);
    if (!length || length > NAME_MAX_BYTES || strspn(name, NAME_LETTERS) != length) return EINVAL;
    if (command_named(name) || command_find(slot, id)) return EEXIST;
    for (int i = 0; i < COMMANDS_MAX; i++)
        if (!agent.commands[i]) return 0;
    return EAGAIN;
}

static int refusal(const struct request *q, uint32_t slot, uint32_t id) {
    if (!q->argv[0] || q->deadline_ms > MILLISECONDS_MAX || q->grace_ms > MILLISECONDS_MAX) return EINVAL;
    return command_refusal(q->name, slot, id);
}

struct command *command_admit(const char *name) {
    struct command *c = calloc(1, sizeof *c);
    if (!c) return NULL;
    while (agent.commands[c->slot]) c->slot++;
    agent.commands[c->slot] = c;
    c->generation = next_generation();
    strcpy(c->name, name);
    c->exit_override = -1;
    c->supervision = c->input.sink = c->input.file = -1;
    c->streams[0] = c->streams[1] = (struct stream){.source = -1, .spool = -1};
    c->started_ns = now_ns();
    return c;
}

static struct command *admit(const struct request *q) {
    struct command *c = command_admit(q->name);
    if (!c) return NULL;
    c->is_exclusive = q->flags & EXEC_EXCLUSIVE;
    c->output_max = q->output_max;
    c->deadline_ns = q->deadline_ms ? c->started_ns + q->deadline_ms * 1000000U : 0;
    c->grace_ns = q->grace_ms * 1000000U;
    return c;
}

static bool set_nonblocking(int fd) { return fcntl(fd, F_SETFL, O_NONBLOCK) == 0; }

static bool open_terminal(struct command *c, struct spawn *spawn, const struct request *q) {
    int master = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK), unlocked = 0;
    c->streams[0].source = master;
    if (master < 0 || ioctl(master, TIOCSPTLCK, &unlocked) < 0) return false;
    int terminal = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (terminal < 0) return false;
    spawn->fds[0] = spawn->fds[1] = spawn->fds[2] = terminal;
    c->input.sink = fcntl(master, F_DUPFD_CLOEXEC, 3);
    /* Fails with one user only, who owns it already. */
    if (fchown(terminal, q->uid, (gid_t)-1) < 0) errno = 0;
    return c->input.sink >= 0 && ioctl(master, TIOCSWINSZ, &q->size) == 0;
}

static bool open_output(struct command *c, struct spawn *spawn, int which) {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0) return false;
    c->streams[which].source = ends[0];
    spawn->fds[1 + which] = ends[1];
    return set_nonblocking(ends[0]);
}

static bool open_input(struct command *c, struct spawn *spawn, int passed, uint8_t flags) {
    bool is_fed = flags & EXEC_STDIN_OPEN, is_terminal = flags & EXEC_TTY;
    struct stat kind;
    if (passed >= 0) {
        bool is_ours = is_fed || is_terminal; /* read by the agent, which may not wait */
        if (fstat(passed, &kind) < 0) return false;
        if (!S_ISREG(kind.st_mode) && (is_ours || !S_ISFIFO(kind.st_mode))) {
            errno = EINVAL;
            return false;
        }
        if (is_ours && (c->input.file = fcntl(passed, F_DUPFD_CLOEXEC, 3)) < 0) return false;
    }
    c->input.is_fed = is_fed;
    c->input.is_terminal = is_terminal;
    c->input.is_last = !is_fed;
    c->input.is_open = is_fed || is_terminal;
    if (is_terminal) return true;
    if (!is_fed) {
        spawn->fds[0] = fcntl(passed >= 0 ? passed : agent.null, F_DUPFD_CLOEXEC, 3);
        return spawn->fds[0] >= 0;
    }
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0) return false;
    spawn->fds[0] = ends[0];
    c->input.sink = ends[1];
    return set_nonblocking(ends[1]);
}

static bool open_streams(struct command *c, struct spawn *spawn, const struct request *q, int passed) {
    bool is_terminal = q->flags & EXEC_TTY;
    if (is_terminal && !open_terminal(c, spawn, q)) return false;
    if (!open_input(c, spawn, passed, q->flags)) return false;
    if (!is_terminal && !(open_output(c, spawn, 0) && open_output(c, spawn, 1))) return false;
    static const enum watch_kind kinds[2] = {WATCH_STDOUT, WATCH_STDERR};
    for (int which = 0; which < 2; which++) {
        int source = c->streams[which].source;
        if (source >= 0 && !watch(source, kinds[which], c->slot, c->generation, EPOLLIN)) return false;
    }
    return c->input.sink < 0 || watch(c->input.sink, WATCH_STDIN, c->slot, c->generation, 0);
}

static bool is_childless(void) {
    siginfo_t ended;
    return waitid(P_ALL, 0, &ended, WEXITED | WNOHANG | WNOWAIT) < 0 && errno == ECHILD;
}

static bool start(struct command *c, struct spawn *spawn) {
    /* As process 1 the agent gets whatever a command leaves behind. A supervisor, a fork and two more wake-ups, is
     * needed only to tell one command's from another's. */
    c->is_lone = agent.is_init && !c->is_exclusive && is_childless();
    c->is_supervised = !c->is_lone && (!c->is_exclusive || !agent.is_init || commands_any_alive());
    if (c->is_supervised) return supervisor_start(c, spawn);
    c->pid = spawn_process(spawn);
    c->state = RUNNING;
    if (c->pid < 0) {
        errno = spawn->error;
        return false;
    }
    if (spawn->error) {
        char line[2048];
        c->exit_override = spawn_failure_code(spawn);
        stream_append(c, c->input.is_terminal ? 0 : 1, line, spawn_failure_line(spawn, line, sizeof line));
    }
    return true;
}

static void run(uint32_t slot, uint32_t id, const struct request *q, const int fds[3]) {
    int error = refusal(q, slot, id);
    struct command *c = error ? NULL : admit(q);
    if (!c) {
        answer_error(slot, id, error ? error : ENOMEM, "exec");
        return;
    }
    struct spawn spawn = {.argv = q->argv, .env = q->env, .directory = q->directory,
                          .fds = {-1, -1, -1}, .is_tty = q->flags & EXEC_TTY,
                          .uid = q->uid, .gid = q->gid};
    for (int which = 0; which < 2; which++)
        c->streams[which].spool = fcntl(fds[which], F_DUPFD_CLOEXEC, 3);
    c->state = ENDED; /* not counted among the living by start() */
    bool is_started = open_streams(c, &spawn, q, fds[2]) && start(c, &spawn);
    error = errno;
    if (spawn.fds[1] == spawn.fds[0]) spawn.fds[1] = spawn.fds[2] = -1;
    for (int i = 0; i < 3; i++) close_fd(&spawn.fds[i]);
    if (!is_started) {
        command_forget(c);
        answer_error(slot, id, error ? error : EIO, "exec");
        return;
    }
    command_attach_to(c, slot, id);
    c->changed = c->streams[1].kept || c->streams[0].kept ? c->attached : 0;
    if (c->state == RUNNING) command_put_started(c, slot);
    input_pump(c);
}

bool command_exec(uint32_t slot, const struct frame *frame) {
    struct request q = {0};
    int fds[3] = {-1, -1, -1};
    int needed = frame->flags & EXEC_STDIN_FD ? 3 : 2;
    bool is_fine = request_read(&q, frame) && connection_fd_count(slot) >= needed;
    for (int i = 0; is_fine && i < needed; i++) fds[i] = connection_take_fd(slot);
    if (is_fine) run(slot, frame->id, &q, fds);
    for (int i = 0; i < 3; i++) close_fd(&fds[i]);
    request_free(&q);
    return is_fine;
}
