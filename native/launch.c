/* The launcher: one loop over the control socket, the gates of half-made sandboxes, and its children. */
#define _GNU_SOURCE
#include "launch.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent.h"
#include "checkpoint.h"
#include "chores.h"
#include "handover.h"
#include "kernel.h"
#include "layers.h"
#include "mounts.h"
#include "spares.h"

enum { REQUEST_LAUNCH = 1, REQUEST_PING, REQUEST_CHORES, REQUEST_SPARES, REQUEST_LAYER, REQUEST_CRIU };
enum { LAUNCHED = 1, FAILED, CHILD_EXITED, PONG, CHORES_DONE, CRIU_ENDED, LAYER_DONE };
enum { LAUNCHES_MAX = 64 };
#define LAUNCH_NS_MAX 10000000000U
/* Without a request for that long, making spares is in nobody's way. */
#define QUIET_MS 3

/* A child between clone and READY. After FAILED it is only waited for. */
struct launch {
    bool is_used, is_failed;
    uint32_t id;
    pid_t pid;
    int pidfd, gate;
    uint64_t started, give_up_ns;
    bool has_userns;
};

static struct {
    int control, signals, home_netns;
    bool is_root;
    struct launch launches[LAUNCHES_MAX];
} launcher;

static uint8_t packet[PACKET_MAX];

static void send_answer(const struct buffer *answer, int fd) {
    union {
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control = {{0}};
    struct iovec bytes = {answer->data, answer->length};
    struct msghdr message = {.msg_iov = &bytes, .msg_iovlen = 1};
    if (fd >= 0) {
        message.msg_control = &control;
        message.msg_controllen = sizeof control;
        struct cmsghdr *m = CMSG_FIRSTHDR(&message);
        m->cmsg_level = SOL_SOCKET;
        m->cmsg_type = SCM_RIGHTS;
        m->cmsg_len = CMSG_LEN(sizeof fd);
        memcpy(CMSG_DATA(m), &fd, sizeof fd);
    }
    /* A gateway that cannot be told is dead or dying: sandboxes live on, the launcher does not. */
    if (answer->failed || sendmsg(launcher.control, &message, MSG_NOSIGNAL) < 0) _exit(1);
}

static void begin_answer(struct buffer *answer, uint8_t kind, uint32_t id) {
    put_u8(answer, kind);
    put_u8(answer, 0);
    put_u16(answer, 0);
    put_u32(answer, id);
}

static void answer_failed(uint32_t id, int error, const char *step) {
    struct buffer answer = {0};
    begin_answer(&answer, FAILED, id);
    put_u32(&answer, (uint32_t)(error ? error : EIO));
    put_string(&answer, step);
    send_answer(&answer, -1);
    buffer_free(&answer);
}

static void answer_launched(const struct launch *l) {
    struct buffer answer = {0};
    begin_answer(&answer, LAUNCHED, l->id);
    put_u32(&answer, (uint32_t)l->pid);
    put_u64(&answer, l->started);
    put_string(&answer, l->has_userns ? "userns" : "none");
    send_answer(&answer, l->pidfd);
    buffer_free(&answer);
}

static void let_go(struct launch *l) {
    close_fd(&l->gate);
    close_fd(&l->pidfd);
}

/* Tell why, kill it, and keep the slot until it is reaped. */
static void give_up(struct launch *l, int error, const char *step) {
    answer_failed(l->id, error, step);
    kill(l->pid, SIGKILL);
    let_go(l);
    l->is_failed = true;
}

static struct launch *free_slot(void) {
    for (int i = 0; i < LAUNCHES_MAX; i++)
        if (!launcher.launches[i].is_used) return &launcher.launches[i];
    return NULL;
}

/* Of the cgroup2 directory that holds a `cgroup.procs`, for clone; -1 when there is none. */
static int cgroup2_of(const struct plan *plan, unsigned *which) {
    for (unsigned i = 0; i < plan->cgroup_count; i++) {
        int fd = handover_open_cgroup2(plan->cgroups[i]);
        *which = i;
        if (fd >= 0) return fd;
    }
    *which = plan->cgroup_count;
    return -1;
}

int launch_clone(const struct plan *plan, int *pidfd, int listener, int gate, bool has_netns, int cgroup, bool as_sibling) {
    struct kernel_clone_args args = {
        .flags = CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_PIDFD,
        .pidfd = (uint64_t)(uintptr_t)pidfd, .exit_signal = as_sibling ? 0 : SIGCHLD};
    if (as_sibling) args.flags |= CLONE_PARENT; /* with our own exit signal */
    bool brings_lo_up = plan->netns != NETNS_HOST && !has_netns;
    if (plan_has_userns(plan)) args.flags |= CLONE_NEWUSER;
    if (brings_lo_up) args.flags |= CLONE_NEWNET;
    if (cgroup >= 0) {
        args.flags |= KERNEL_CLONE_INTO_CGROUP;
        args.cgroup = (uint64_t)cgroup;
    }
    /* Without root, only a dumpable child's map files belong to us; it turns that off once mapped. */
    if (plan->userns == USERNS_SINGLE) prctl(PR_SET_DUMPABLE, 1);
    pid_t pid = (pid_t)syscall(SYS_clone3, &args, sizeof args);
    if (pid == 0) sandbox_main(plan, listener, gate, brings_lo_up);
    int error = errno;
    prctl(PR_SET_DUMPABLE, 0);
    errno = error;
    return pid;
}

static pid_t clone_in_netns(const struct plan *plan, struct launch *l, int listener, int gate, int cgroup) {
    int netns = plan->netns == NETNS_POOLED ? netns_take() : -1;
    bool is_inside = netns >= 0 && setns(netns, CLONE_NEWNET) == 0;
    pid_t pid = launch_clone(plan, &l->pidfd, listener, gate, is_inside, cgroup, false);
    int error = errno;
    /* In the wrong one, everything made from now on would be too. */
    if (is_inside && setns(launcher.home_netns, CLONE_NEWNET) < 0) _exit(1);
    netns_lend(pid, netns);
    errno = error;
    return pid;
}

static bool hand_over(const struct plan *plan, struct launch *l, const char **step) {
    *step = "map users";
    if (!handover_map_users(plan, l->pid)) return false;
    *step = "open the gate";
    if (!handover_open_gate(plan, l->pid, l->gate)) return false;
    *step = "write the pid file";
    l->started = handover_start_time(l->pid);
    if (!l->started || (plan->pidfile && !handover_write_pid(plan->pidfile, l->pid, l->started))) return false;
    *step = "open the gate";
    return send(l->gate, (char[]){GATE_GO}, 1, MSG_NOSIGNAL) == 1;
}

static void on_gate(struct launch *l) {
    uint8_t message[4 + GATE_STEP_MAX + 1];
    ssize_t got;
    /* A child that fails before it has read its gate resets the socket; what it said comes after that. */
    do got = recv(l->gate, message, sizeof message - 1, MSG_DONTWAIT);
    while (got < 0 && errno == ECONNRESET);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
    uint32_t error = ECHILD;
    if (got >= 4) memcpy(&error, message, 4);
    message[got > 0 ? got : 0] = 0;
    if (error) {
        give_up(l, (int)error, got >= 4 ? (char *)message + 4 : "the child died");
        return;
    }
    answer_launched(l);
    let_go(l);
    l->is_used = false;
}

/* The child has no right to open them; what it writes counts as ours, who did. */
static bool open_cgroups(struct plan *plan, unsigned joined) {
    for (unsigned i = 0; i < plan->cgroup_count; i++) {
        if (i == joined) continue;
        plan->cgroup_fds[i] = open(plan->cgroups[i], O_WRONLY | O_CLOEXEC);
        if (plan->cgroup_fds[i] < 0) return false;
    }
    return true;
}

static void close_cgroups(struct plan *plan, int *cgroup2) {
    close_fd(cgroup2);
    for (unsigned i = 0; i < plan->cgroup_count; i++) close_fd(&plan->cgroup_fds[i]);
}

static pid_t clone_in_cell(struct spare *spare, const struct plan *plan, struct launch *l, int listener, int gate, struct reader bytes) {
    int netns = plan->netns == NETNS_POOLED ? netns_take() : -1;
    pid_t pid = spares_clone(spare, bytes.at, (uint32_t)bytes.left, listener, gate, netns, &l->pidfd);
    int error = errno;
    netns_lend(pid, netns);
    errno = error;
    return pid;
}

/* The groups of the plan, with a spare in them or to be joined; what has been made when it fails is the gateway's to remove. */
static bool make_cells(struct plan *plan, struct spare **spare, const char **step) {
    *spare = spares_take(plan);
    *step = "make the cgroup";
    for (unsigned i = 0; i < plan->cell_count && !*spare; i++) {
        if (mkdir(plan->cells[i], 0755) < 0 || plan->cgroup_count == CGROUPS_MAX) return false;
        size_t size = strlen(plan->cells[i]) + sizeof "/cgroup.procs";
        char *procs = plan->cgroups[plan->cgroup_count] = malloc(size);
        if (!procs) return false;
        plan->cgroup_count++;
        snprintf(procs, size, "%s/cgroup.procs", plan->cells[i]);
    }
    *step = "set limits";
    struct reader chores = {plan->chores, plan->chores_length, false};
    uint32_t place;
    errno = plan->chores_length ? chores_do(&chores, &place) : 0;
    if (!errno) return true;
    if (*spare) spares_drop(*spare);
    return false;
}

static void launch(uint32_t id, struct plan *plan, int listener, struct reader bytes) {
    struct launch *l = free_slot();
    int gates[2];
    if (!l || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, gates) < 0) {
        answer_failed(id, l ? errno : EAGAIN, "launch");
        return;
    }
    *l = (struct launch){.id = id, .pidfd = -1, .gate = gates[0], .has_userns = plan_has_userns(plan),
                         .give_up_ns = now_ns() + LAUNCH_NS_MAX};
    struct spare *spare;
    const char *step;
    if (!make_cells(plan, &spare, &step)) {
        int error = errno;
        close(gates[1]);
        let_go(l);
        answer_failed(id, error, step);
        return;
    }
    unsigned joined;
    int cgroup2 = cgroup2_of(plan, &joined);
    if (!open_cgroups(plan, joined)) {
        int error = errno;
        close(gates[1]);
        close_cgroups(plan, &cgroup2);
        let_go(l);
        answer_failed(id, error, "join the cgroup");
        return;
    }
    if (spare) l->pid = clone_in_cell(spare, plan, l, listener, gates[1], bytes);
    else l->pid = clone_in_netns(plan, l, listener, gates[1], cgroup2);
    int error = errno;
    close(gates[1]);
    close_cgroups(plan, &cgroup2);
    if (l->pid < 0) {
        let_go(l);
        answer_failed(id, error, "clone");
        return;
    }
    l->is_used = true;
    if (hand_over(plan, l, &step)) return;
    error = errno;
    on_gate(l); /* when the child failed first, it says why better than we can */
    if (!l->is_failed) give_up(l, error, step);
}

static void on_packet(size_t length, int *fds, unsigned fd_count) {
    struct reader r = {packet, length, false};
    uint8_t kind = read_u8(&r);
    bool is_zero = (read_u8(&r) | read_u16(&r)) == 0;
    uint32_t id = read_u32(&r);
    if (r.bad || !is_zero || kind < REQUEST_LAUNCH || kind > REQUEST_CRIU) {
        answer_failed(id, EINVAL, "the packet");
    } else if (kind == REQUEST_PING) {
        struct buffer answer = {0};
        begin_answer(&answer, PONG, id);
        send_answer(&answer, -1);
        buffer_free(&answer);
    } else if (kind == REQUEST_CHORES || kind == REQUEST_SPARES) {
        struct buffer answer = {0};
        uint32_t place = 0;
        int error = kind == REQUEST_SPARES ? spares_configure(&r) : chores_do(&r, &place);
        begin_answer(&answer, CHORES_DONE, id);
        put_u32(&answer, (uint32_t)error);
        put_u32(&answer, place);
        send_answer(&answer, -1);
        buffer_free(&answer);
    } else if (kind == REQUEST_LAYER) {
        struct buffer answer = {0};
        int opened, error = layers_do(&r, fd_count ? fds[0] : -1, &opened);
        begin_answer(&answer, LAYER_DONE, id);
        put_u32(&answer, (uint32_t)error);
        send_answer(&answer, opened);
        close_fd(&opened);
        buffer_free(&answer);
    } else if (kind == REQUEST_CRIU) {
        int error = checkpoint_start(id, &r, fds, fd_count);
        if (error) answer_failed(id, error, "run criu");
    } else if (fd_count != 1) {
        answer_failed(id, EBADF, "the listening socket");
    } else {
        struct plan plan;
        const char *what;
        if (plan_read(&plan, r.at, (uint32_t)r.left, &what)) launch(id, &plan, fds[0], r);
        else answer_failed(id, EINVAL, what);
        plan_free(&plan);
    }
}

static void on_control(void) {
    enum { FDS_MAX = CHECKPOINT_FDS_MAX };
    union {
        char bytes[CMSG_SPACE(sizeof(int) * FDS_MAX)];
        struct cmsghdr align;
    } control;
    struct iovec room = {packet, sizeof packet};
    struct msghdr message = {.msg_iov = &room, .msg_iovlen = 1, .msg_control = &control,
                             .msg_controllen = sizeof control};
    ssize_t got = recvmsg(launcher.control, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (got <= 0) {
        spares_end();
        _exit(0);
    }
    int fds[FDS_MAX];
    unsigned count = 0;
    struct cmsghdr *m = CMSG_FIRSTHDR(&message);
    if (m && m->cmsg_level == SOL_SOCKET && m->cmsg_type == SCM_RIGHTS) {
        count = (unsigned)((m->cmsg_len - CMSG_LEN(0)) / sizeof(int));
        memcpy(fds, CMSG_DATA(m), count * sizeof(int));
    }
    bool is_whole = !(message.msg_flags & (MSG_TRUNC | MSG_CTRUNC));
    on_packet(is_whole ? (size_t)got : 0, fds, count);
    for (unsigned i = 0; i < count; i++) close(fds[i]);
}

static void reap(void) {
    struct signalfd_siginfo ignored;
    if (read(launcher.signals, &ignored, sizeof ignored) < 0) return;
    int status;
    for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;) {
        netns_ended(pid);
        struct launch *found = NULL;
        uint32_t run;
        if (checkpoint_ended(pid, &run)) {
            struct buffer answer = {0};
            begin_answer(&answer, CRIU_ENDED, run);
            put_u32(&answer, (uint32_t)status);
            send_answer(&answer, -1);
            buffer_free(&answer);
            continue;
        }
        for (int i = 0; i < LAUNCHES_MAX; i++)
            if (launcher.launches[i].is_used && launcher.launches[i].pid == pid) found = &launcher.launches[i];
        /* What it said last comes first, be it READY or the reason. */
        if (found && !found->is_failed) on_gate(found);
        if (found && found->is_used) {
            if (!found->is_failed) give_up(found, ECHILD, "the child died");
            found->is_used = false;
        } else if (!netns_is_maker(pid) && !spares_reaped(pid)) {
            struct buffer answer = {0};
            begin_answer(&answer, CHILD_EXITED, (uint32_t)pid);
            put_u32(&answer, (uint32_t)status);
            send_answer(&answer, -1);
            buffer_free(&answer);
        }
    }
}

static void serve(void) {
    for (;;) {
        struct pollfd fds[2 + LAUNCHES_MAX];
        struct launch *pending[LAUNCHES_MAX];
        nfds_t count = 2;
        fds[0] = (struct pollfd){.fd = launcher.control, .events = POLLIN};
        fds[1] = (struct pollfd){.fd = launcher.signals, .events = POLLIN};
        for (int i = 0; i < LAUNCHES_MAX; i++) {
            struct launch *l = &launcher.launches[i];
            if (!l->is_used || l->is_failed) continue;
            pending[count - 2] = l;
            fds[count++] = (struct pollfd){.fd = l->gate, .events = POLLIN};
        }
        bool is_making = spares_are_wanted();
        if (poll(fds, count, is_making ? QUIET_MS : count > 2 ? 1000 : -1) == 0 && is_making) spares_make_one();
        for (nfds_t i = 2; i < count; i++) {
            struct launch *l = pending[i - 2];
            if (fds[i].revents) on_gate(l);
            else if (now_ns() > l->give_up_ns) give_up(l, ETIMEDOUT, "launch");
        }
        if (fds[1].revents) reap();
        if (fds[0].revents) on_control();
    }
}

static void prepare(int control) {
    launcher.control = control;
    close_all_but(&control, 1);
    fcntl(control, F_SETFD, FD_CLOEXEC);
    prctl(PR_SET_DUMPABLE, 0);
    signals_by_default();
    sigset_t all, child;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    launcher.signals = signalfd(-1, &child, SFD_CLOEXEC | SFD_NONBLOCK);
    umask(022);
    launcher.home_netns = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    launcher.is_root = geteuid() == 0;
    /* Slave, not private: what the host mounts later is seen here, what happens here stays here. */
    if (!launcher.is_root || unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) < 0) return;
    if (base_make()) layers_start();
    netns_start();
}

int launch_main(int argc, char **argv) {
    if (argc != 2 || strcmp(argv[0], "--control")) {
        fputs("usage: faas-native launch --control FD\n", stderr);
        return 2;
    }
    if (!handover_is_sealed()) {
        handover_reexecute(argv[1]);
        fprintf(stderr, "faas-native launch: cannot start from memory: %s\n", strerror(errno));
        return 1;
    }
    prepare(atoi(argv[1]));
    serve();
    return 0;
}
