/* System calls and flags that C libraries lack or disagree about; the numbers are the same everywhere. */
#ifndef FAAS_KERNEL_H
#define FAAS_KERNEL_H

#include <errno.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

struct kernel_open_how {
    uint64_t flags, mode, resolve;
};
#define KERNEL_RESOLVE_NO_MAGICLINKS 0x02
#define KERNEL_RESOLVE_NO_SYMLINKS 0x04
#define KERNEL_RESOLVE_BENEATH 0x08
#define KERNEL_RESOLVE_IN_ROOT 0x10

struct kernel_mount_attr {
    uint64_t set, clear, propagation, userns_fd;
};
#define KERNEL_MOUNT_RDONLY 0x01
#define KERNEL_MOUNT_NOSUID 0x02
#define KERNEL_MOUNT_NODEV 0x04
#define KERNEL_MOUNT_NOEXEC 0x08
#define KERNEL_MOUNT_IDMAP 0x00100000
#define KERNEL_OPEN_TREE_CLONE 1
#define KERNEL_AT_RECURSIVE 0x8000
#define KERNEL_MOVE_FROM_FD 0x04
#define KERNEL_MOVE_TO_FD 0x40

struct kernel_clone_args {
    uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid,
        set_tid_size, cgroup;
};
#define KERNEL_CLONE_INTO_CGROUP 0x200000000ULL

/* walk.c */
int walk_open(int directory, const char *path, uint64_t flags, uint64_t mode, uint64_t resolve);

static inline int kernel_open(int directory, const char *path, uint64_t flags, uint64_t mode, uint64_t resolve) {
    struct kernel_open_how how = {flags, mode, resolve};
    int fd = (int)syscall(437, directory, path, &how, sizeof how);
    return fd < 0 && errno == ENOSYS ? walk_open(directory, path, flags, mode, resolve) : fd;
}
static inline int kernel_open_tree(int directory, const char *path, unsigned flags) {
    return (int)syscall(428, directory, path, flags);
}
static inline int kernel_move_mount(int from, const char *from_path, int to, const char *to_path, unsigned flags) {
    return (int)syscall(429, from, from_path, to, to_path, flags);
}
static inline int kernel_mount_setattr(int fd, unsigned flags, struct kernel_mount_attr attr) {
    return (int)syscall(442, fd, "", flags | 0x1000 /* AT_EMPTY_PATH */, &attr, sizeof attr);
}
static inline int kernel_pidfd_getfd(int pidfd, int fd) {
    return (int)syscall(438, pidfd, fd, 0);
}
static inline int kernel_close_range(unsigned first, unsigned last) {
    return (int)syscall(436, first, last, 0);
}

/* Every descriptor above 2 but these. */
void close_all_but(const int *kept, unsigned count);

#endif
