#define _GNU_SOURCE
#include "spares.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent.h"
#include "kernel.h"
#include "launch.h"

enum { SPARES_MAX = 16, GONE_MAX = 64, CLONE_MS_MAX = 2000, JOB_FDS = 3 };

struct spare {
    pid_t pid;
    int socket;
    bool is_ready;
};

struct clone_answer {
    int32_t pid, error;
};

static struct spare spares[SPARES_MAX];
static pid_t leaving[GONE_MAX]; /* used or dropped, not reaped yet */
static unsigned wanted, parent_count;
static bool is_filling, has_failed;
static char *parents[CGROUPS_MAX], *prefix;
static uint8_t job[PACKET_MAX + 1];

static bool name_of(char *path, size_t size, unsigned parent, const struct spare *spare) {
    /* With the launcher's pid: another may still be clearing its own away. */
    int length = snprintf(path, size, "%s/%s%d-%u", parents[parent], prefix, getpid(), (unsigned)(spare - spares));
    return length > 0 && (size_t)length < size;
}

int spares_configure(struct reader *r) {
    if (prefix) return EALREADY;
    uint32_t count = read_u32(r);
    prefix = read_string(r);
    uint32_t groups = read_u32(r);
    if (r->bad || count > SPARES_MAX || !groups || groups > CGROUPS_MAX || strchr(prefix, '/')) return EINVAL;
    for (uint32_t i = 0; i < groups; i++) {
        parents[i] = read_string(r);
        if (!parents[i] || parents[i][0] != '/') return EINVAL;
    }
    if (!read_done(r)) return EINVAL;
    parent_count = groups;
    wanted = count;
    is_filling = true;
    return 0;
}

static unsigned count_living(void) {
    unsigned living = 0;
    for (unsigned i = 0; i < wanted; i++) living += spares[i].pid != 0;
    return living;
}

/* Many at a time: a move that follows another at once does not wait. */
bool spares_are_wanted(void) {
    if (!wanted || has_failed) return false;
    unsigned living = count_living();
    if (living <= wanted / 2) is_filling = true;
    if (living == wanted) is_filling = false;
    return is_filling;
}

static struct cmsghdr *with_fds(struct msghdr *message, const int *fds, unsigned count) {
    message->msg_controllen = CMSG_SPACE(sizeof(int) * count);
    struct cmsghdr *m = CMSG_FIRSTHDR(message);
    m->cmsg_level = SOL_SOCKET;
    m->cmsg_type = SCM_RIGHTS;
    m->cmsg_len = CMSG_LEN(sizeof(int) * count);
    memcpy(CMSG_DATA(m), fds, sizeof(int) * count);
    return m;
}

union fds_control {
    char bytes[CMSG_SPACE(sizeof(int) * JOB_FDS)];
    struct cmsghdr align;
};

static unsigned fds_of(struct msghdr *message, int *fds) {
    struct cmsghdr *m = CMSG_FIRSTHDR(message);
    if (!m || m->cmsg_level != SOL_SOCKET || m->cmsg_type != SCM_RIGHTS) return 0;
    unsigned count = (unsigned)((m->cmsg_len - CMSG_LEN(0)) / sizeof(int));
    memcpy(fds, CMSG_DATA(m), count * sizeof(int));
    return count;
}

/* In the spare: wait for the one job, clone, answer. */
static void work(int socket) {
    union fds_control control;
    int fds[JOB_FDS], pidfd = -1;
    struct iovec room = {job, sizeof job};
    struct msghdr message = {.msg_iov = &room, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    ssize_t got = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
    unsigned count = got > 0 ? fds_of(&message, fds) : 0;
    struct plan plan;
    const char *what;
    if (got <= 0 || count < 2 || !plan_read(&plan, job, (uint32_t)got, &what)) return;
    bool is_inside = count == JOB_FDS && setns(fds[2], CLONE_NEWNET) == 0;
    struct clone_answer answer = {.pid = launch_clone(&plan, &pidfd, fds[0], fds[1], is_inside, -1, true)};
    if (answer.pid < 0) answer.error = errno;
    struct iovec bytes = {&answer, sizeof answer};
    struct msghdr reply = {.msg_iov = &bytes, .msg_iovlen = 1};
    if (pidfd >= 0) {
        reply.msg_control = &control;
        with_fds(&reply, &pidfd, 1);
    }
    if (sendmsg(socket, &reply, MSG_NOSIGNAL) < 0 && answer.pid > 0) kill(answer.pid, SIGKILL);
}

_Noreturn static void sit(int socket, const int *groups) {
    int kept[CGROUPS_MAX + 1] = {socket};
    memcpy(kept + 1, groups, sizeof(int) * parent_count);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    close_all_but(kept, parent_count + 1);
    for (unsigned i = 0; i < parent_count; i++) {
        if (write(groups[i], "0", 1) != 1) _exit(1);
        close(groups[i]);
    }
    if (send(socket, "r", 1, MSG_NOSIGNAL) == 1) work(socket);
    _exit(0);
}

static void remove_groups(const struct spare *spare) {
    char path[4096];
    for (unsigned i = 0; i < parent_count; i++)
        if (name_of(path, sizeof path, i, spare)) rmdir(path);
}

static bool make_groups(const struct spare *spare, int *groups) {
    char path[4096];
    for (unsigned i = 0; i < parent_count; i++) {
        if (!name_of(path, sizeof path - 16, i, spare)) return false;
        /* One of a launcher that died may be there; nobody is in it any more. */
        if (mkdir(path, 0755) < 0 && errno != EEXIST) return false;
        strcat(path, "/cgroup.procs");
        groups[i] = open(path, O_WRONLY | O_CLOEXEC);
        if (groups[i] < 0) return false;
    }
    return true;
}

void spares_make_one(void) {
    struct spare *spare = spares;
    while (spare < spares + wanted && spare->pid) spare++;
    if (spare == spares + wanted) return;
    int groups[CGROUPS_MAX], ends[2] = {-1, -1};
    for (unsigned i = 0; i < CGROUPS_MAX; i++) groups[i] = -1;
    pid_t pid = -1;
    if (make_groups(spare, groups) && socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) == 0) pid = fork();
    if (pid == 0) sit(ends[1], groups);
    for (unsigned i = 0; i < parent_count; i++) close_fd(&groups[i]);
    close_fd(&ends[1]);
    if (pid < 0) {
        /* It would fail again at once: sandboxes join their groups by themselves then. */
        has_failed = true;
        close_fd(&ends[0]);
        remove_groups(spare);
        return;
    }
    *spare = (struct spare){pid, ends[0], false};
}

static bool is_ready(struct spare *spare) {
    char byte;
    if (spare->pid && !spare->is_ready) spare->is_ready = recv(spare->socket, &byte, 1, MSG_DONTWAIT) == 1;
    return spare->pid && spare->is_ready;
}

static bool has_our_parents(const struct plan *plan) {
    if (!parent_count || plan->cell_count != parent_count) return false;
    for (unsigned i = 0; i < parent_count; i++) {
        size_t length = strlen(parents[i]);
        const char *cell = plan->cells[i];
        if (strncmp(cell, parents[i], length) || cell[length] != '/' || strchr(cell + length + 1, '/')) return false;
    }
    return true;
}

static void forget(struct spare *spare) {
    for (unsigned i = 0; i < GONE_MAX; i++) {
        if (leaving[i]) continue;
        leaving[i] = spare->pid;
        break;
    }
    close_fd(&spare->socket);
    spare->pid = 0;
}

struct spare *spares_take(const struct plan *plan) {
    if (!has_our_parents(plan)) return NULL;
    for (struct spare *spare = spares; spare < spares + wanted; spare++) {
        if (!is_ready(spare)) continue;
        char path[4096];
        unsigned i = 0;
        while (i < parent_count && name_of(path, sizeof path, i, spare) && rename(path, plan->cells[i]) == 0) i++;
        if (i == parent_count) return spare;
        /* Whoever asked removes what bears its names; ours go with the process. */
        kill(spare->pid, SIGKILL);
        return NULL;
    }
    return NULL;
}

void spares_drop(struct spare *spare) {
    kill(spare->pid, SIGKILL);
    forget(spare);
}

pid_t spares_clone(struct spare *spare, const uint8_t *bytes, uint32_t length, int listener, int gate, int netns, int *pidfd) {
    union fds_control control = {{0}};
    const int fds[JOB_FDS] = {listener, gate, netns};
    struct iovec data = {(void *)(uintptr_t)bytes, length};
    struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = &control};
    with_fds(&message, fds, netns >= 0 ? JOB_FDS : JOB_FDS - 1);
    struct clone_answer answer = {-1, EIO};
    struct iovec room = {&answer, sizeof answer};
    struct msghdr reply = {.msg_iov = &room, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    struct pollfd readable = {spare->socket, POLLIN, 0};
    bool is_whole = sendmsg(spare->socket, &message, MSG_NOSIGNAL) == (ssize_t)length &&
                    poll(&readable, 1, CLONE_MS_MAX) == 1 &&
                    recvmsg(spare->socket, &reply, MSG_CMSG_CLOEXEC | MSG_DONTWAIT) == sizeof answer;
    int got[JOB_FDS];
    if (is_whole && answer.pid > 0 && fds_of(&reply, got) == 1) *pidfd = got[0];
    else if (is_whole && answer.pid > 0) answer = (struct clone_answer){-1, EIO};
    if (!is_whole) kill(spare->pid, SIGKILL);
    forget(spare);
    errno = answer.error;
    return answer.pid > 0 ? answer.pid : -1;
}

bool spares_reaped(pid_t pid) {
    for (unsigned i = 0; i < GONE_MAX; i++) {
        if (leaving[i] != pid) continue;
        leaving[i] = 0;
        return true;
    }
    for (struct spare *spare = spares; spare < spares + wanted; spare++) {
        if (spare->pid != pid) continue;
        /* It died by itself: it could not join, most likely. */
        if (!spare->is_ready) has_failed = true;
        close_fd(&spare->socket);
        spare->pid = 0;
        remove_groups(spare);
        return true;
    }
    return false;
}

void spares_end(void) {
    for (struct spare *spare = spares; spare < spares + wanted; spare++)
        if (spare->pid) kill(spare->pid, SIGKILL);
    for (struct spare *spare = spares; spare < spares + wanted; spare++) {
        if (!spare->pid) continue;
        waitpid(spare->pid, NULL, 0);
        remove_groups(spare);
    }
}
