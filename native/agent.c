/* The loop, and which frame goes where. */
#define _GNU_SOURCE
#include "agent.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "lockdown.h"

struct agent agent;

uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000U + (uint64_t)t.tv_nsec;
}

/* 24 bits, so that it fits the event's tag beside the kind. */
uint32_t next_generation(void) {
    agent.generation = (agent.generation + 1) & 0xffffff;
    return agent.generation ? agent.generation : (agent.generation = 1);
}

static bool control(int operation, int fd, enum watch_kind kind, uint32_t slot, uint32_t generation,
                    uint32_t events) {
    uint64_t tag = (uint64_t)kind << 56 | (uint64_t)generation << 32 | slot;
    struct epoll_event event = {.events = events, .data.u64 = tag};
    return epoll_ctl(agent.epoll, operation, fd, &event) == 0;
}

bool watch(int fd, enum watch_kind kind, uint32_t slot, uint32_t generation, uint32_t events) {
    return control(EPOLL_CTL_ADD, fd, kind, slot, generation, events);
}

void rewatch(int fd, enum watch_kind kind, uint32_t slot, uint32_t generation, uint32_t events) {
    control(EPOLL_CTL_MOD, fd, kind, slot, generation, events);
}

void close_fd(int *fd) {
    if (*fd >= 0) close(*fd);
    *fd = -1;
}

static bool hello(uint32_t slot, const struct frame *frame) {
    struct reader r = {frame->payload, frame->length, false};
    uint32_t version = read_u32(&r);
    if (!read_done(&r) || frame->flags) return false;
    if (version != PROTOCOL_VERSION) {
        answer_error(slot, frame->id, EPROTONOSUPPORT, "this agent speaks version 1");
        return true;
    }
    struct buffer *b = connection_answers(slot);
    size_t start = frame_begin(b, FRAME_HELLO_OK, frame->id);
    put_u32(b, PROTOCOL_VERSION);
    put_bytes(b, agent.boot_id, sizeof agent.boot_id);
    put_u32(b, (uint32_t)getpid());
    frame_end(b, start);
    return true;
}

bool agent_frame(uint32_t slot, const struct frame *frame) {
    switch (frame->type) {
    case FRAME_HELLO: return hello(slot, frame);
    case FRAME_EXEC: return command_exec(slot, frame);
    case FRAME_STDIN: return command_stdin(slot, frame);
    case FRAME_SIGNAL: return command_signal(slot, frame);
    case FRAME_RESIZE: return command_resize(slot, frame);
    case FRAME_ATTACH: return command_attach(slot, frame);
    case FRAME_LIST: return command_list(slot, frame);
    case FRAME_RELEASE: return command_release(slot, frame);
    case FRAME_CONNECT: return port_connect(slot, frame);
    case FRAME_EXPORT: return command_export(slot, frame);
    case FRAME_ADOPT: return command_adopt(slot, frame);
    default: return files_frame(slot, frame);
    }
}

static void reap(void) {
    struct signalfd_siginfo ignored[8];
    while (read(agent.signals, ignored, sizeof ignored) == sizeof ignored) continue;
    struct rusage usage;
    int status;
    pid_t pid;
    while ((pid = wait4(-1, &status, WNOHANG, &usage)) > 0)
        if (!worker_reaped(pid)) commands_reaped(pid, status, &usage);
    commands_settle(pid < 0 && errno == ECHILD);
}

static void dispatch(const struct epoll_event *event) {
    enum watch_kind kind = (enum watch_kind)(event->data.u64 >> 56);
    uint32_t generation = (uint32_t)(event->data.u64 >> 32) & 0xffffff;
    uint32_t slot = (uint32_t)event->data.u64;
    switch (kind) {
    case WATCH_LISTEN: agent.has_callers = true; break;
    case WATCH_SIGNALS: reap(); break;
    case WATCH_CONNECTION: connection_event(slot, generation, event->events); break;
    case WATCH_WORKER: worker_event(slot, generation); break;
    default: commands_event(kind, slot, generation, event->events);
    }
}

void signals_by_default(void) {
    /* By the kernel's own call: the library keeps 32 to 34 to itself, and whoever started us may have left one ignored. */
    const uint64_t by_default[4] = {0};
    for (int number = 1; number < NSIG; number++) syscall(SYS_rt_sigaction, number, by_default, NULL, 8);
}

static bool prepare(int listener, bool is_init) {
    sigset_t all, child;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    umask(022);
    agent = (struct agent){.listener = listener, .is_init = is_init};
    agent.epoll = epoll_create1(EPOLL_CLOEXEC);
    agent.signals = signalfd(-1, &child, SFD_CLOEXEC | SFD_NONBLOCK);
    agent.null = open("/dev/null", O_RDWR | O_CLOEXEC);
    fcntl(listener, F_SETFL, fcntl(listener, F_GETFL) | O_NONBLOCK);
    if (getrandom(agent.boot_id, sizeof agent.boot_id, 0) != sizeof agent.boot_id) return false;
    return agent.epoll >= 0 && agent.signals >= 0 &&
           watch(listener, WATCH_LISTEN, 0, 0, EPOLLIN) && watch(agent.signals, WATCH_SIGNALS, 0, 0, EPOLLIN);
}

int agent_run(int listener, bool is_init) {
    if (!prepare(listener, is_init)) return 1;
    for (;;) {
        struct epoll_event events[32];
        int count = epoll_wait(agent.epoll, events, 32, commands_next_timeout());
        for (int i = 0; i < count; i++) dispatch(&events[i]);
        commands_tick();
        do commands_push_output();
        while (connections_flush());
        /* Last, when those who hung up in this turn have made room. */
        if (agent.has_callers) connection_accept(agent.listener);
        agent.has_callers = false;
    }
}

int listen_at(const char *path) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path) {
        errno = ENAMETOOLONG;
        return -1;
    }
    strcpy(address.sun_path, path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    unlink(path);
    /* Whoever may enter the directory may connect: it is that which is closed. */
    if (fd >= 0 && bind(fd, (struct sockaddr *)&address, sizeof address) == 0 && chmod(path, 0666) == 0 && listen(fd, 16) == 0)
        return fd;
    return -1;
}

/* For good: the only user of a sandbox that keeps memory, without groups or any power. */
static bool become_only_user(uid_t user) {
    if (setgroups(0, NULL) < 0 || setresgid(user, user, user) < 0 || setresuid(user, user, user) < 0) return false;
    prctl(PR_SET_DUMPABLE, 0); /* changing user set it anew */
    return lockdown_drop_everything();
}

int agent_main(int argc, char **argv) {
    int listener = -1;
    uid_t user = 0;
    bool is_init = getpid() == 1;
    for (int i = 0; i < argc; i++) {
        bool has_value = i + 1 < argc;
        if (!strcmp(argv[i], "--fake-init")) is_init = false;
        else if (!strcmp(argv[i], "--listen") && has_value) listener = listen_at(argv[++i]);
        else if (!strcmp(argv[i], "--listen-fd") && has_value) listener = atoi(argv[++i]);
        else if (!strcmp(argv[i], "--user") && has_value) user = (uid_t)strtoul(argv[++i], NULL, 10);
        else if (!strcmp(argv[i], "--close") && i + 2 < argc) {
            /* A volume begins as root's, which commands may be: nobody shall add to it. */
            if (chown(argv[i + 1], (uid_t)strtoul(argv[i + 2], NULL, 10), 0) < 0 || chmod(argv[i + 1], 0555) < 0)
                listener = -1, i = argc;
            else i += 2;
        } else listener = -1, i = argc, errno = EINVAL;
    }
    if (listener < 0 || fcntl(listener, F_SETFD, FD_CLOEXEC) < 0) {
        fprintf(stderr, "faas-native agent: cannot listen: %s\n", strerror(errno));
        return 2;
    }
    signals_by_default();
    if (getpid() != 1) prctl(PR_SET_CHILD_SUBREAPER, 1);
    lockdown_agent();
    if (user && !become_only_user(user)) {
        fprintf(stderr, "faas-native agent: cannot become the user: %s\n", strerror(errno));
        return 2;
    }
    return agent_run(listener, is_init);
}
