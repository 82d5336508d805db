/* Between the agent and a command that does not own the sandbox stands a process that adopts whatever
 * the command leaves behind, so that its tree can be found and killed however it daemonises. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "command.h"
#include "kernel.h"
#include "lockdown.h"

enum {
    PROCESSES_MAX = 32768,
    STOP_ROUNDS = 8,   /* until a scan finds nobody new: forks race with it */
    KILL_ROUNDS = 100, /* of up to 10 ms; the agent asks again after that */
};

struct entry {
    pid_t pid, parent;
    char state;
    bool is_below;
};

static bool read_entry(const char *name, struct entry *entry) {
    char path[32], text[512];
    snprintf(path, sizeof path, "/proc/%.12s/stat", name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return false;
    ssize_t length = read(fd, text, sizeof text - 1);
    close(fd);
    if (length <= 0) return false;
    text[length] = 0;
    const char *after_name = strrchr(text, ')'); /* the name may hold anything */
    entry->pid = atoi(name);
    entry->is_below = false;
    return after_name && sscanf(after_name, ") %c %d", &entry->state, &entry->parent) == 2;
}

static size_t scan(struct entry *entries) {
    DIR *proc = opendir("/proc");
    if (!proc) return 0;
    size_t count = 0;
    for (struct dirent *d; count < PROCESSES_MAX && (d = readdir(proc));)
        if (d->d_name[0] >= '1' && d->d_name[0] <= '9' && read_entry(d->d_name, &entries[count])) count++;
    closedir(proc);
    return count;
}

typedef bool spare_predicate(pid_t pid);

/* Signal everything below `root`, but for its spared children and what is below them. `is_new` counts
 * only those that were not stopped yet. */
static size_t signal_below(pid_t root, int number, spare_predicate *is_spared, bool is_new) {
    struct entry *entries = malloc(sizeof *entries * PROCESSES_MAX);
    if (!entries) return 0;
    size_t count = scan(entries), hit = 0;
    for (bool is_changed = true; is_changed;) {
        is_changed = false;
        for (size_t i = 0; i < count; i++) {
            struct entry *e = &entries[i];
            if (e->is_below) continue;
            bool is_below = e->parent == root && !(is_spared && is_spared(e->pid));
            for (size_t j = 0; j < count && !is_below && e->parent != root; j++)
                is_below = entries[j].is_below && entries[j].pid == e->parent;
            e->is_below = is_below;
            is_changed |= is_below;
        }
    }
    for (size_t i = 0; i < count; i++) {
        struct entry *e = &entries[i];
        if (!e->is_below || e->state == 'Z' || e->state == 'X') continue;
        if (is_new && (e->state == 'T' || e->state == 't')) continue;
        if (kill(e->pid, number) == 0) hit++;
    }
    free(entries);
    return hit;
}

/* Stopped first: what is stopped forks no more, and its place in the pids limit stays taken. */
static size_t kill_below(pid_t root, spare_predicate *is_spared) {
    for (int round = 0; round < STOP_ROUNDS; round++)
        if (!signal_below(root, SIGSTOP, is_spared, true)) break;
    return signal_below(root, SIGKILL, is_spared, false);
}

static bool is_known(pid_t pid) { return command_owns(pid) || worker_is(pid); }

void supervisor_kill_tree(pid_t supervisor) { kill_below(supervisor, NULL); }

static bool is_others(pid_t pid) {
    for (int i = 0; i < COMMANDS_MAX; i++) {
        const struct command *c = agent.commands[i];
        if (c && c->is_supervised && c->supervisor == pid) return true;
    }
    return worker_is(pid);
}

void supervisor_signal_lone(int signal) {
    if (signal == SIGKILL) kill_below(getpid(), is_others);
    else signal_below(getpid(), signal, is_others, false);
}

void supervisor_kill_strays(void) {
    for (int round = 0; round < 3; round++)
        if (!kill_below(getpid(), is_known)) break;
}

int supervisor_children(pid_t parent, pid_t *children) {
    struct entry *entries = malloc(sizeof *entries * PROCESSES_MAX);
    if (!entries) return -1;
    size_t count = scan(entries);
    int found = 0;
    for (size_t i = 0; i < count && found >= 0; i++) {
        const struct entry *e = &entries[i];
        if (e->parent != parent || e->state == 'Z' || e->state == 'X' || worker_is(e->pid)) continue;
        bool is_supervisor = false;
        for (int j = 0; j < COMMANDS_MAX; j++) {
            const struct command *c = agent.commands[j];
            is_supervisor |= c && c->is_supervised && c->supervisor == e->pid;
        }
        if (is_supervisor) continue;
        if (found == ROOTS_MAX) found = -1;
        else children[found++] = e->pid;
    }
    free(entries);
    return found;
}

void supervisor_signal_roots(const struct command *command, int signal) {
    for (unsigned i = 0; i < command->root_count; i++) {
        pid_t root = command->roots[i];
        if (signal == SIGKILL) {
            kill(root, SIGSTOP);
            kill_below(root, NULL);
        } else {
            signal_below(root, signal, NULL, false);
        }
        kill(root, signal);
    }
}

struct supervision {
    int socket, signals;
    pid_t main;
    bool has_ended;
};

static void tell(const struct supervision *s, int32_t kind, int32_t value, const struct rusage *usage) {
    struct supervisor_message message;
    memset(&message, 0, sizeof message);
    message.kind = kind;
    message.value = value;
    if (usage) message.usage = *usage;
    if (write(s->socket, &message, sizeof message) < 0) errno = 0;
}

/* False when no child is left. */
static bool reap(struct supervision *s, int *status, struct rusage *usage) {
    for (;;) {
        struct rusage one;
        int how;
        pid_t pid = wait4(-1, &how, WNOHANG, &one);
        if (pid < 0) return errno != ECHILD;
        if (pid == 0) return true;
        if (pid == s->main && !s->has_ended) {
            s->has_ended = true;
            *status = how;
            *usage = one;
        }
    }
}

static void kill_tree(struct supervision *s, int *status, struct rusage *usage) {
    struct pollfd signals = {.fd = s->signals, .events = POLLIN};
    struct signalfd_siginfo ignored;
    for (int round = 0; round < KILL_ROUNDS; round++) {
        kill_below(getpid(), NULL);
        if (!reap(s, status, usage)) return;
        poll(&signals, 1, 10);
        if (read(s->signals, &ignored, sizeof ignored) < 0) continue;
    }
}

/* Returns false when nothing is left to supervise. */
static bool turn(struct supervision *s) {
    struct pollfd both[2] = {{.fd = s->signals, .events = POLLIN}, {.fd = s->socket, .events = POLLIN}};
    poll(both, 2, -1);
    bool had_ended = s->has_ended;
    int status = 0;
    struct rusage usage;
    struct signalfd_siginfo ignored;
    struct supervisor_message request;
    if (both[0].revents && read(s->signals, &ignored, sizeof ignored) < 0) errno = 0;
    bool is_left = reap(s, &status, &usage);
    if (both[1].revents) {
        ssize_t got = read(s->socket, &request, sizeof request);
        bool is_orphaned = got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR);
        if (is_orphaned) request.kind = SUPERVISE_KILL_TREE;
        else if (got != sizeof request) request.kind = 0;
        if (request.kind == SUPERVISE_SIGNAL && !s->has_ended) kill(-s->main, request.value);
        if (request.kind == SUPERVISE_SIGNAL_TREE) signal_below(getpid(), request.value, NULL, false);
        if (request.kind == SUPERVISE_KILL_TREE) {
            kill_tree(s, &status, &usage);
            is_left = reap(s, &status, &usage);
        }
        if (is_orphaned) return false;
    }
    if (s->has_ended && !had_ended) tell(s, SUPERVISED_ENDED, status, &usage);
    return is_left;
}

static void supervise(int socket, struct spawn *spawn) {
    struct supervision s = {.socket = socket};
    const int kept[] = {socket, spawn->fds[0], spawn->fds[1], spawn->fds[2]};
    close_all_but(kept, 4);
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    lockdown_hide_behind_user();
    sigset_t child;
    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    s.signals = signalfd(-1, &child, SFD_CLOEXEC | SFD_NONBLOCK);
    s.main = spawn_process(spawn);
    if (spawn->error) {
        char line[2048];
        size_t length = spawn_failure_line(spawn, line, sizeof line);
        if (write(spawn->fds[2], line, length) < 0) errno = 0;
        tell(&s, SUPERVISED_FAILED, spawn_failure_code(spawn), NULL);
    }
    tell(&s, SUPERVISED_STARTED, s.main, NULL);
    for (int i = 0; i < 3; i++)
        if (spawn->fds[i] > 2) close(spawn->fds[i]);
    if (s.main < 0) {
        struct rusage none;
        memset(&none, 0, sizeof none);
        tell(&s, SUPERVISED_ENDED, 0, &none);
        return;
    }
    while (turn(&s)) continue;
}

bool supervisor_start(struct command *c, struct spawn *spawn) {
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0) return false;
    c->supervisor = fork();
    if (c->supervisor == 0) {
        supervise(ends[1], spawn);
        _exit(0);
    }
    int error = errno;
    close(ends[1]);
    c->supervision = ends[0];
    c->state = STARTING;
    if (c->supervisor > 0 && fcntl(ends[0], F_SETFL, O_NONBLOCK) == 0 &&
        watch(ends[0], WATCH_SUPERVISOR, c->slot, c->generation, EPOLLIN))
        return true;
    errno = error;
    return false;
}

bool supervisor_ask(struct command *c, enum supervisor_request request, int signal) {
    struct supervisor_message message;
    memset(&message, 0, sizeof message);
    message.kind = (int32_t)request;
    message.value = signal;
    return c->supervision >= 0 && send(c->supervision, &message, sizeof message, MSG_NOSIGNAL | MSG_DONTWAIT) > 0;
}
