/* CRIU, run as root of the host in the namespaces of a sandbox without a user namespace.
 *
 * A runner is forked from the launcher, so that it outlives both launcher and gateway: a dump that was begun is
 * ended. It joins the sandbox's namespaces, attaches what CRIU needs where nobody in the sandbox may look (a
 * tmpfs of mode 0700 over /proc/fs), and has a child in the sandbox's pid namespace become CRIU. CRIU then sees no
 * foreign namespace and takes or makes processes only. What is restored becomes a child of the agent when CRIU ends.
 * Without a command line it only sets where the sandbox's process ids go on.
 *
 * Everything below the sandbox's root is hostile: nothing of it is executed or loaded, and nothing is looked up by a
 * name that the sandbox could have made. */
#define _GNU_SOURCE
#include "checkpoint.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent.h"
#include "kernel.h"

#define PLACE "/proc/fs"
#define LOADER PLACE "/loader"
#define LAST_PID "/proc/sys/kernel/ns_last_pid"
enum {
    LOADER_BYTES_MAX = 2 << 20, /* Debian's has 0.25 MB */
    RUNS_MAX = 32,
    GROUPS_MAX = 16,
    /* Where the passed descriptors begin in CRIU; it keeps its own at the upper end. */
    FIRST_FD = 10,
    GATE_FD = FIRST_FD - 1, /* as in preload/criu.c */
    /* Told by the exit code of a runner; CRIU's own is 0 or 1. */
    RUNNER_FAILED = 100,
};

static struct {
    pid_t pid;
    uint32_t id;
} runs[RUNS_MAX];

struct request {
    char *tree, *images, *preload;
    uint32_t user;                  /* of the sandbox's processes */
    uint32_t pid_before, pid_after; /* what ns_last_pid is set to; 0 leaves it */
    char *groups[GROUPS_MAX];
    int group_fds[GROUPS_MAX];
    uint32_t group_count;
    char **argv;
    uint32_t argc;
};

static void request_free(struct request *q) {
    free(q->tree);
    free(q->images);
    free(q->preload);
    for (uint32_t i = 0; i < q->group_count; i++) free(q->groups[i]);
    for (uint32_t i = 0; q->argv && i < q->argc; i++) free(q->argv[i]);
    free(q->argv);
}

static char *read_path(struct reader *r) {
    char *path = read_string(r);
    if (path && path[0] != '/') r->bad = true;
    return path;
}

static bool request_read(struct request *q, struct reader *r) {
    q->tree = read_path(r);
    q->images = read_path(r);
    q->preload = read_path(r);
    q->user = read_u32(r);
    q->pid_before = read_u32(r);
    q->pid_after = read_u32(r);
    uint32_t groups = read_u32(r);
    if (r->bad || groups > GROUPS_MAX) return false;
    while (q->group_count < groups && !r->bad) q->groups[q->group_count++] = read_path(r);
    uint32_t argc = read_u32(r);
    if (r->bad || argc > 256 || !(q->argv = calloc(argc + 1, sizeof *q->argv))) return false;
    while (q->argc < argc && !r->bad) q->argv[q->argc++] = read_string(r);
    return read_done(r);
}

static bool write_number(int fd, uint32_t number) {
    char text[16];
    int length = snprintf(text, sizeof text, "%u", number);
    return pwrite(fd, text, (size_t)length, 0) == length;
}

/* Pids are given out in the namespace of whoever writes, so a child inside it does. */
static bool set_last_pid(int fd, uint32_t number) {
    pid_t child = fork();
    if (child == 0) _exit(write_number(fd, number) ? 0 : 1);
    int status = 1;
    return child > 0 && waitpid(child, &status, 0) == child && status == 0;
}

static bool attach(int tree, const char *name) {
    char path[64];
    snprintf(path, sizeof path, PLACE "/%s", name);
    return mkdir(path, 0700) == 0 && kernel_move_mount(tree, "", AT_FDCWD, path, KERNEL_MOVE_FROM_FD) == 0;
}

static int clone_tree(const char *path, bool is_read_only) {
    int tree = kernel_open_tree(AT_FDCWD, path, KERNEL_OPEN_TREE_CLONE | O_CLOEXEC);
    struct kernel_mount_attr attr = {.set = KERNEL_MOUNT_NOSUID | KERNEL_MOUNT_NODEV};
    if (is_read_only) attr.set |= KERNEL_MOUNT_RDONLY;
    return tree >= 0 && kernel_mount_setattr(tree, 0, attr) == 0 ? tree : -1;
}

static bool copy(int source, const char *path) {
    int target = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0500);
    ssize_t got = 1;
    while (target >= 0 && (got = sendfile(target, source, NULL, 1 << 20)) > 0) continue;
    if (target >= 0) close(target);
    return target >= 0 && got == 0;
}

/* Names of the same length below PLACE, where there are no such files. */
static bool rename_in(char *bytes, size_t size, const char *name, const char *other) {
    size_t length = strlen(name) + 1;
    bool found = false;
    for (char *at = bytes; (at = memmem(at, size - (size_t)(at - bytes), name, length)); at += length) {
        memcpy(at, other, length);
        found = true;
    }
    return found;
}

/* The C library's loader looks at files in /etc, which are the sandbox's here, and loads what they name. CRIU is started
 * by a copy of it that looks for them below PLACE. A loader that does not have those names is none we know. */
static bool make_loader(const char *source, const char *path) {
    struct stat s;
    int from = open(source, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    bool done = from >= 0 && fstat(from, &s) == 0 && S_ISREG(s.st_mode) && s.st_size > 0 && s.st_size <= LOADER_BYTES_MAX;
    size_t size = done ? (size_t)s.st_size : 0;
    char *bytes = done ? malloc(size) : NULL;
    done = bytes && pread(from, bytes, size, 0) == (ssize_t)size;
    if (done && !(rename_in(bytes, size, "/etc/ld.so.preload", PLACE "/preloaded") &&
                  rename_in(bytes, size, "/etc/ld.so.cache", PLACE "/ldcache"))) {
        done = false;
        errno = ENOEXEC;
    }
    int target = done ? open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0500) : -1;
    if (done) done = target >= 0 && write(target, bytes, size) == (ssize_t)size;
    if (target >= 0) close(target);
    if (from >= 0) close(from);
    free(bytes);
    return done;
}

static bool furnish(int tree, int images, int preload, const char *loader) {
    if (mount("faas-criu", PLACE, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0700,size=4m") < 0) return false;
    if (!copy(preload, PLACE "/preload.so")) return false;
    return attach(tree, "tree") && attach(images, "images") && mkdir(PLACE "/plugins", 0700) == 0 &&
           make_loader(loader, LOADER);
}

/* In the sandbox's pid namespace. It begins when the gate says so: while its libraries are loaded, it is moved. */
static _Noreturn void become_criu(struct request *q, int null, int log, int gate, const int *passed, unsigned count) {
    /* Root by its effective user only. The real one is the sandbox's: reading another's limits takes that, or
     * CAP_SYS_RESOURCE, which hosts that are containers themselves lack. What is preloaded sees to it. */
    char user[40];
    snprintf(user, sizeof user, "FAAS_CRIU_USER=%u", q->user);
    char *const env[] = {user, "FAAS_CRIU_GATE=1", NULL};
    /* Up first: the places they shall have may be taken by others of them. */
    int high[CHECKPOINT_FDS_MAX];
    if ((gate = fcntl(gate, F_DUPFD_CLOEXEC, FIRST_FD + CHECKPOINT_FDS_MAX + 8)) < 0) _exit(RUNNER_FAILED);
    for (unsigned i = 0; i < count; i++)
        if ((high[i] = fcntl(passed[i], F_DUPFD_CLOEXEC, FIRST_FD + CHECKPOINT_FDS_MAX + 8)) < 0) _exit(RUNNER_FAILED);
    if (dup2(null, 0) < 0 || dup2(log, 1) < 0 || dup2(log, 2) < 0) _exit(RUNNER_FAILED);
    kernel_close_range(3, FIRST_FD + CHECKPOINT_FDS_MAX);
    if (dup2(gate, GATE_FD) < 0) _exit(RUNNER_FAILED);
    for (unsigned i = 0; i < count; i++)
        if (dup2(high[i], FIRST_FD + (int)i) < 0) _exit(RUNNER_FAILED);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signals_by_default();
    /* Those whose session leader is gone are restored into CRIU's, so it must be one of this namespace. */
    if (setsid() < 0 || chdir("/") < 0) _exit(RUNNER_FAILED);
    execve(LOADER, q->argv, env);
    _exit(RUNNER_FAILED);
}

/* A move into a version 1 group takes up to 10 ms on an idle host. */
static bool join(const struct request *q, pid_t pid) {
    for (uint32_t i = 0; i < q->group_count; i++)
        if (!write_number(q->group_fds[i], (uint32_t)pid)) return false;
    return true;
}

static int run_criu(struct request *q, int null, int last_pid, int log, const int *passed, unsigned count) {
    if (q->pid_before && !set_last_pid(last_pid, q->pid_before)) return RUNNER_FAILED;
    int gate[2];
    if (pipe2(gate, O_CLOEXEC) < 0) return RUNNER_FAILED;
    pid_t child = fork();
    if (child == 0) {
        close(gate[1]);
        become_criu(q, null, log, gate[0], passed, count);
    }
    close(gate[0]);
    int status;
    if (child < 0) return RUNNER_FAILED;
    /* What is restored is a member of the groups CRIU is a member of. A closed gate ends it. */
    if (join(q, child) && write(gate[1], "g", 1) < 0) errno = 0;
    close(gate[1]);
    while (waitpid(child, &status, 0) < 0)
        if (errno != EINTR) return RUNNER_FAILED;
    if (q->pid_after && !set_last_pid(last_pid, q->pid_after)) return RUNNER_FAILED;
    return WIFEXITED(status) ? WEXITSTATUS(status) : RUNNER_FAILED;
}

static void say(int log, const char *step) {
    dprintf(log, "runner: %s: %s\n", step, strerror(errno));
}

/* Descriptors: the sandbox's pidfd, a lock to hold, the log, then what CRIU is to inherit. */
static int run(struct request *q, const int *fds, unsigned count) {
    const int log = fds[2];
    const char *step = "prepare";
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    int last_pid = open(LAST_PID, O_RDWR | O_CLOEXEC);
    for (uint32_t i = 0; i < q->group_count; i++)
        if ((q->group_fds[i] = open(q->groups[i], O_WRONLY | O_CLOEXEC)) < 0) last_pid = -1;
    if (!q->argc) {
        step = "set the last process id";
        if (syscall(SYS_setns, fds[0], CLONE_NEWPID) == 0 && set_last_pid(last_pid, q->pid_before)) return 0;
        say(log, step);
        return RUNNER_FAILED;
    }
    int tree = clone_tree(q->tree, true), images = clone_tree(q->images, false);
    int preload = open(q->preload, O_RDONLY | O_CLOEXEC);
    int code = RUNNER_FAILED;
    if (null < 0 || last_pid < 0 || tree < 0 || images < 0 || preload < 0) {
        say(log, step);
        return code;
    }
    step = "join the sandbox";
    const int spaces = CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP | CLONE_NEWPID;
    bool done = syscall(SYS_setns, fds[0], spaces) == 0;
    if (done) {
        step = "attach criu";
        umask(077);
        done = furnish(tree, images, preload, q->argv[0]);
        if (done) code = run_criu(q, null, last_pid, log, fds + 3, count - 3);
        int error = errno;
        umount2(PLACE, MNT_DETACH);
        errno = error;
    }
    if (!done || code == RUNNER_FAILED) say(log, step);
    return code;
}

int checkpoint_start(uint32_t id, struct reader *r, const int *fds, unsigned fd_count) {
    if (fd_count < 3) return EBADF;
    struct request q = {0};
    unsigned slot = 0;
    while (slot < RUNS_MAX && runs[slot].pid) slot++;
    int error = !request_read(&q, r) ? EINVAL : slot == RUNS_MAX ? EAGAIN : 0;
    pid_t pid = error ? -1 : fork();
    if (pid == 0) {
        setsid();
        prctl(PR_SET_NAME, "faas-criu");
        close_all_but(fds, fd_count);
        _exit(run(&q, fds, fd_count));
    }
    if (!error && pid < 0) error = errno;
    if (pid > 0) {
        runs[slot].pid = pid;
        runs[slot].id = id;
    }
    request_free(&q);
    return error;
}

bool checkpoint_ended(pid_t pid, uint32_t *id) {
    for (unsigned i = 0; i < RUNS_MAX; i++) {
        if (runs[i].pid != pid) continue;
        runs[i].pid = 0;
        *id = runs[i].id;
        return true;
    }
    return false;
}
