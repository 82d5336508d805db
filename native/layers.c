#define _GNU_SOURCE
#include "layers.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base.h"
#include "kernel.h"

#define TMPFS_MAGIC 0x01021994

static int place = -1;
static unsigned kept;

void layers_start(void) {
    char path[80];
    snprintf(path, sizeof path, "%s/layers", base_path);
    if (!base_path[0] || mount("faas-layers", path, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=0700,size=1m") < 0)
        return;
    place = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

static void name_of(uint64_t number, char name[24]) { snprintf(name, 24, "%llu", (unsigned long long)number); }

static int close_with(int fd, int error) {
    if (fd >= 0) close(fd);
    return error;
}

/* Only what the sandbox's maker put there: a tree in memory that is mounted nowhere can be moved. */
static int writable_layer_of(int pidfd) {
    int fd = kernel_pidfd_getfd(pidfd, LAYER_FD);
    struct statfs fs;
    struct stat top;
    if (fd < 0) return -1;
    bool is_ours = fstatfs(fd, &fs) == 0 && fs.f_type == TMPFS_MAGIC && fstat(fd, &top) == 0 && S_ISDIR(top.st_mode);
    if (is_ours) return fd;
    errno = close_with(fd, ENOTDIR);
    return -1;
}

static int open_top(int at, const char *name) { return openat(at, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW); }

static int take(uint64_t number, int pidfd, int *opened) {
    char name[24];
    name_of(number, name);
    int tree = writable_layer_of(pidfd);
    if (tree < 0) return errno;
    if (mkdirat(place, name, 0700) < 0) return close_with(tree, errno);
    if (kernel_move_mount(tree, "", place, name, KERNEL_MOVE_FROM_FD) < 0) {
        int error = errno;
        unlinkat(place, name, AT_REMOVEDIR);
        return close_with(tree, error);
    }
    kept++;
    *opened = open_top(place, name);
    return close_with(tree, *opened < 0 ? errno : 0);
}

static int make(uint64_t number, uint64_t size, uint64_t inodes, int *opened) {
    char name[24], path[128], options[96];
    name_of(number, name);
    snprintf(path, sizeof path, "%s/layers/%s", base_path, name);
    snprintf(options, sizeof options, "mode=0755,size=%llu,nr_inodes=%llu", (unsigned long long)size,
             (unsigned long long)inodes);
    if (mkdirat(place, name, 0700) < 0) return errno;
    if (mount("faas-layer", path, "tmpfs", MS_NOSUID | MS_NODEV, options) < 0) {
        int error = errno;
        unlinkat(place, name, AT_REMOVEDIR);
        return error;
    }
    kept++;
    *opened = open_top(place, name);
    return *opened < 0 ? errno : 0;
}

static int drop(uint64_t number) {
    char name[24], path[128];
    name_of(number, name);
    snprintf(path, sizeof path, "%s/layers/%s", base_path, name);
    /* Sandboxes that stand on it hold it themselves. */
    if (umount2(path, MNT_DETACH | UMOUNT_NOFOLLOW) < 0) return errno == ENOENT ? 0 : errno;
    if (kept) kept--;
    return unlinkat(place, name, AT_REMOVEDIR) < 0 ? errno : 0;
}

static int look(int pidfd, int *opened) {
    int tree = writable_layer_of(pidfd);
    if (tree < 0) return errno;
    *opened = open_top(tree, ".");
    return close_with(tree, *opened < 0 ? errno : 0);
}

int layers_do(struct reader *r, int pidfd, int *opened) {
    *opened = -1;
    uint8_t verb = read_u8(r);
    uint64_t number = read_u64(r), size = read_u64(r), inodes = read_u64(r);
    if (!read_done(r)) return EINVAL;
    if ((verb == LAYER_TAKE || verb == LAYER_LOOK) == (pidfd < 0)) return EBADF;
    if (place < 0) return EOPNOTSUPP;
    if ((verb == LAYER_TAKE || verb == LAYER_MAKE) && kept >= LAYERS_KEPT_MAX) return EMFILE;
    switch (verb) {
    case LAYER_TAKE: return take(number, pidfd, opened);
    case LAYER_MAKE: return make(number, size, inodes, opened);
    case LAYER_DROP: return drop(number);
    case LAYER_LOOK: return look(pidfd, opened);
    default: return EINVAL;
    }
}

int layers_clone(uint64_t number, int userns) {
    char name[24];
    name_of(number, name);
    int fd = place < 0 ? -1 : kernel_open_tree(place, name, KERNEL_OPEN_TREE_CLONE | O_CLOEXEC);
    struct kernel_mount_attr attr = {.set = KERNEL_MOUNT_IDMAP | KERNEL_MOUNT_RDONLY | KERNEL_MOUNT_NOSUID |
                                            KERNEL_MOUNT_NODEV, .userns_fd = (uint64_t)userns};
    if (place < 0) errno = EOPNOTSUPP;
    if (fd < 0 || kernel_mount_setattr(fd, 0, attr) == 0) return fd;
    errno = close_with(fd, errno);
    return -1;
}
