/* The child of the launcher, from its first instruction in the new namespaces until it is the agent.
 * Two gates: GATE_MAPPED when its user ids are mapped, so that it can mount; GATE_GO when it is in its
 * cgroups and written down, so that it may become real. A closed gate means the launcher is gone. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/securebits.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "agent.h"
#include "kernel.h"
#include "launch.h"
#include "layers.h"
#include "lockdown.h"
#include "mounts.h"

static void tell(int gate, int error, const char *step) {
    uint8_t message[4 + GATE_STEP_MAX];
    size_t length = strnlen(step, GATE_STEP_MAX);
    uint32_t number = (uint32_t)error;
    memcpy(message, &number, 4);
    memcpy(message + 4, step, length);
    send(gate, message, 4 + length, MSG_NOSIGNAL);
}

static void wait_for(int gate, enum gate expected, struct lowers *lowers) {
    union {
        char bytes[CMSG_SPACE(sizeof lowers->fds)];
        struct cmsghdr align;
    } control;
    char byte = 0;
    struct iovec room = {&byte, 1};
    struct msghdr message = {.msg_iov = &room, .msg_iovlen = 1, .msg_control = &control,
                             .msg_controllen = sizeof control};
    ssize_t got;
    do got = recvmsg(gate, &message, MSG_CMSG_CLOEXEC);
    while (got < 0 && errno == EINTR);
    if (got != 1 || byte != (char)expected) _exit(1);
    struct cmsghdr *m = CMSG_FIRSTHDR(&message);
    if (!m || !lowers) return;
    lowers->count = (unsigned)((m->cmsg_len - CMSG_LEN(0)) / sizeof lowers->fds[0]);
    memcpy(lowers->fds, CMSG_DATA(m), lowers->count * sizeof lowers->fds[0]);
}

/* The sandbox goes before anything else of this machine when memory runs out. */
static void go_first(void) {
    int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (fd < 0) return;
    if (write(fd, "500", 3) < 0) errno = 0;
    close(fd);
}

/* By itself: a move takes a grace period (10 ms on an idle host), and the launcher would wait for each in turn. */
static bool join_cgroups(const struct plan *plan) {
    for (unsigned i = 0; i < plan->cgroup_count; i++)
        if (plan->cgroup_fds[i] >= 0 && write(plan->cgroup_fds[i], "0", 1) != 1) return false;
    return true;
}

static bool let_go_of_the_host(const int *kept, unsigned count) {
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null < 0) return false;
    for (int i = 0; i < 3; i++)
        if (dup2(null, i) < 0) return false;
    close_all_but(kept, count);
    return true;
}

static bool become_root(const struct plan *plan) {
    if (plan->userns != USERNS_SINGLE && setgroups(0, NULL) < 0) return false;
    if (setresgid(0, 0, 0) < 0 || setresuid(0, 0, 0) < 0) return false;
    prctl(PR_SET_DUMPABLE, 0);
    return prctl(PR_SET_PDEATHSIG, SIGKILL) == 0; /* changing user cleared it */
}

/* Without a user namespace: what is made from now on belongs to the sandbox's user; the power to mount stays. */
static bool make_as_user(const struct plan *plan) {
    if (plan->userns != USERNS_FLAT) return true;
    if (prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP) < 0) return false;
    setfsgid(plan->gid);
    setfsuid(plan->uid);
    return (uid_t)setfsuid((uid_t)-1) == plan->uid && (gid_t)setfsgid((gid_t)-1) == plan->gid;
}

/* For good: the sandbox's only user, who has no power on the host. */
static bool become_user(const struct plan *plan) {
    if (plan->userns != USERNS_FLAT) return true;
    if (setresgid(plan->gid, plan->gid, plan->gid) < 0 || setresuid(plan->uid, plan->uid, plan->uid) < 0) return false;
    prctl(PR_SET_DUMPABLE, 0);
    return lockdown_drop_everything();
}

/* Numbers below are left to CRIU, which restores processes with the numbers they had. */
static bool skip_pids(const struct plan *plan) {
    char text[16];
    int length = snprintf(text, sizeof text, "%u", plan->last_pid);
    int fd = plan->last_pid ? open("/proc/sys/kernel/ns_last_pid", O_WRONLY | O_CLOEXEC) : -1;
    bool done = !plan->last_pid || (fd >= 0 && write(fd, text, (size_t)length) == length);
    if (fd >= 0) close(fd);
    return done;
}

static bool limit(const struct plan *plan) {
    for (unsigned i = 0; i < plan->rlimit_count; i++) {
        int resource = (int)plan->rlimits[i].resource;
        struct rlimit now, wanted = {plan->rlimits[i].soft, plan->rlimits[i].hard};
        if (getrlimit(resource, &now) < 0) return false;
        if (wanted.rlim_max > now.rlim_max) wanted.rlim_max = now.rlim_max;
        if (wanted.rlim_cur > wanted.rlim_max) wanted.rlim_cur = wanted.rlim_max;
        if (setrlimit(resource, &wanted) < 0) return false;
    }
    return true;
}

/* The same, under a number that is not the layer's. */
static int aside(int fd) { return fd == LAYER_FD ? fcntl(fd, F_DUPFD_CLOEXEC, LAYER_FD + 1) : fd; }

/* Where the launcher finds it when the layer is to be kept: nobody in the sandbox can look at the agent. */
static void hold_written(void) {
    int tree = mounts_written();
    if (tree < 0 || tree == LAYER_FD) return;
    dup3(tree, LAYER_FD, O_CLOEXEC);
    close(tree);
}

static bool build(const struct plan *plan, int gate, bool brings_lo_up, const char **step) {
    struct lowers lowers = {.count = 0};
    *step = "leave the host";
    wait_for(gate, GATE_MAPPED, &lowers);
    mounts_open_sources(plan);
    *step = "become root of the sandbox";
    if (!become_root(plan)) return false;
    *step = "set the first process id";
    if (!skip_pids(plan)) return false;
    *step = "set the host name";
    if (plan->hostname && sethostname(plan->hostname, strlen(plan->hostname)) < 0) return false;
    *step = "bring lo up";
    if (brings_lo_up && !netns_lo_up()) return false;
    *step = "make files as the user";
    if (!make_as_user(plan)) return false;
    if (!mounts_make_root(plan, &lowers, step)) return false;
    wait_for(gate, GATE_GO, NULL);
    /* Only now, so that its root is the cgroup it was put into. */
    *step = "make a cgroup namespace";
    if (unshare(CLONE_NEWCGROUP) < 0 && errno != EINVAL) return false;
    if (!mounts_enter_root(step)) return false;
    *step = "set limits";
    if (!limit(plan)) return false;
    lockdown_agent();
    *step = "become the user";
    if (!become_user(plan)) return false;
    *step = "install the system call filter";
    return !plan->seccomp_length || lockdown_seccomp(plan->seccomp, plan->seccomp_length);
}

_Noreturn void sandbox_main(const struct plan *plan, int listener, int gate, bool brings_lo_up) {
    const int kept[] = {listener = aside(listener), gate = aside(gate)};
    const char *step = "join the cgroup";
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    go_first();
    setsid();
    bool is_inside = join_cgroups(plan);
    if (is_inside) step = "leave the host";
    if (!is_inside || !let_go_of_the_host(kept, 2) || !build(plan, gate, brings_lo_up, &step)) {
        tell(gate, errno ? errno : EIO, step);
        _exit(1);
    }
    hold_written();
    prctl(PR_SET_PDEATHSIG, 0);
    tell(gate, 0, "");
    close(gate);
    _exit(agent_run(listener, true));
}
