#define _GNU_SOURCE
#include "handover.h"

#include <errno.h>
#include <limits.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kernel.h"
#include "launch.h"
#include "layers.h"
#include "mounts.h"

#define SEALS (F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE)
#define CGROUP2_MAGIC 0x63677270
#ifndef MFD_EXEC
#define MFD_EXEC 0x0010U
#endif

extern char **environ;

void close_all_but(const int *kept, unsigned count) {
    int low = 3;
    for (;;) {
        int next = -1;
        for (unsigned i = 0; i < count; i++)
            if (kept[i] >= low && (next < 0 || kept[i] < next)) next = kept[i];
        if (next < 0) break;
        if (next > low) kernel_close_range((unsigned)low, (unsigned)next - 1);
        low = next + 1;
    }
    kernel_close_range((unsigned)low, INT_MAX);
}

bool handover_is_sealed(void) {
    int self = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    int seals = self < 0 ? -1 : fcntl(self, F_GET_SEALS);
    if (self >= 0) close(self);
    return seals >= 0 && (seals & SEALS) == SEALS;
}

void handover_reexecute(char *control) {
    int self = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    int copy = memfd_create("faas-native", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_EXEC);
    if (copy < 0 && errno == EINVAL) copy = memfd_create("faas-native", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    struct stat size;
    if (self < 0 || copy < 0 || fstat(self, &size) < 0) return;
    for (off_t at = 0; at < size.st_size;)
        if (sendfile(copy, self, &at, (size_t)(size.st_size - at)) <= 0) return;
    if (fcntl(copy, F_ADD_SEALS, SEALS) < 0) return;
    char *const argv[] = {"faas-native", "launch", "--control", control, NULL};
    fexecve(copy, argv, environ);
}

static bool write_file(const char *path, const char *text) {
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0) return false;
    size_t length = strlen(text);
    bool done = write(fd, text, length) == (ssize_t)length;
    int error = errno;
    close(fd);
    errno = error;
    return done;
}

int handover_open_cgroup2(const char *procs_file) {
    char directory[4096];
    const char *slash = strrchr(procs_file, '/');
    size_t length = (size_t)(slash - procs_file);
    if (!length || length >= sizeof directory) return -1;
    memcpy(directory, procs_file, length);
    directory[length] = 0;
    int fd = open(directory, O_PATH | O_DIRECTORY | O_CLOEXEC);
    struct statfs fs;
    if (fd >= 0 && fstatfs(fd, &fs) == 0 && fs.f_type == CGROUP2_MAGIC) return fd;
    if (fd >= 0) close(fd);
    return -1;
}

static bool map_users(const struct plan *plan, pid_t pid) {
    char path[64], map[64];
    bool is_single = plan->userns == USERNS_SINGLE;
    snprintf(path, sizeof path, "/proc/%d/setgroups", pid);
    if (is_single && !write_file(path, "deny")) return false;
    snprintf(path, sizeof path, "/proc/%d/uid_map", pid);
    snprintf(map, sizeof map, "0 %u %u\n", is_single ? geteuid() : plan->uid, is_single ? 1 : plan->count);
    if (!write_file(path, map)) return false;
    snprintf(path, sizeof path, "/proc/%d/gid_map", pid);
    snprintf(map, sizeof map, "0 %u %u\n", is_single ? getegid() : plan->gid, is_single ? 1 : plan->count);
    return write_file(path, map);
}

bool handover_map_users(const struct plan *plan, pid_t pid) {
    return !plan_has_userns(plan) || map_users(plan, pid);
}

static int open_userns(pid_t pid) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/ns/user", pid);
    return open(path, O_RDONLY | O_CLOEXEC);
}

/* A user namespace nobody lives in, to say how owners are shifted; it takes a process to make one. */
static int empty_userns(const struct plan *plan) {
    struct kernel_clone_args args = {.flags = CLONE_NEWUSER, .exit_signal = SIGCHLD};
    pid_t pid = (pid_t)syscall(SYS_clone3, &args, sizeof args);
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (;;) pause();
    }
    if (pid < 0) return -1;
    int userns = map_users(plan, pid) ? open_userns(pid) : -1;
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    return userns;
}

/* Clones of what lies below, for the owners of the child; false when a layer is gone. */
static bool clone_lowers(const struct plan *plan, pid_t pid, struct lowers *lowers) {
    bool is_shifted = plan->userns == USERNS_RANGE || plan->userns == USERNS_FLAT;
    bool has_image = plan->root.op == OP_ROOT_OVERLAY && plan->root.flags && is_shifted;
    if (!has_image && !plan->layer_count) return true;
    int userns = plan->userns == USERNS_FLAT ? empty_userns(plan) : open_userns(pid);
    if (userns < 0) return !plan->layer_count;
    bool done = true;
    for (unsigned i = 0; done && i < plan->layer_count; i++) {
        int tree = layers_clone(plan->layers[i], userns);
        done = tree >= 0;
        if (done) lowers->fds[lowers->count++] = tree;
    }
    int image = done && has_image ? mounts_idmapped(plan->root.source, userns) : -1;
    if (image >= 0) lowers->fds[lowers->count++] = image;
    int error = errno;
    close(userns);
    errno = error;
    return done;
}

bool handover_open_gate(const struct plan *plan, pid_t pid, int gate) {
    struct lowers lowers = {.count = 0};
    bool done = clone_lowers(plan, pid, &lowers);
    union {
        char bytes[CMSG_SPACE(sizeof lowers.fds)];
        struct cmsghdr align;
    } control = {{0}};
    struct iovec byte = {(char[]){GATE_MAPPED}, 1};
    struct msghdr message = {.msg_iov = &byte, .msg_iovlen = 1};
    if (lowers.count) {
        size_t size = lowers.count * sizeof lowers.fds[0];
        message.msg_control = &control;
        message.msg_controllen = CMSG_SPACE(size);
        struct cmsghdr *m = CMSG_FIRSTHDR(&message);
        m->cmsg_level = SOL_SOCKET;
        m->cmsg_type = SCM_RIGHTS;
        m->cmsg_len = CMSG_LEN(size);
        memcpy(CMSG_DATA(m), lowers.fds, size);
    }
    done = done && sendmsg(gate, &message, MSG_NOSIGNAL) == 1;
    int error = errno;
    for (unsigned i = 0; i < lowers.count; i++) close(lowers.fds[i]);
    errno = error;
    return done;
}

uint64_t handover_start_time(pid_t pid) {
    char path[64], text[1024];
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 0;
    ssize_t length = read(fd, text, sizeof text - 1);
    close(fd);
    if (length <= 0) return 0;
    text[length] = 0;
    const char *at = strrchr(text, ')');
    for (int field = 2; at && field < 22; field++) at = strchr(at + 1, ' ');
    return at ? strtoull(at, NULL, 10) : 0;
}

bool handover_write_pid(const char *path, pid_t pid, uint64_t started) {
    char staged[4096], text[64];
    if ((size_t)snprintf(staged, sizeof staged, "%s.tmp", path) >= sizeof staged) {
        errno = ENAMETOOLONG;
        return false;
    }
    int fd = open(staged, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) return false;
    int length = snprintf(text, sizeof text, "%d %llu\n", pid, (unsigned long long)started);
    bool done = write(fd, text, (size_t)length) == length;
    close(fd);
    if (done && rename(staged, path) == 0) return true;
    int error = errno;
    unlink(staged);
    errno = error;
    return false;
}
