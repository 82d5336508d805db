#define _GNU_SOURCE
#include "mounts.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base.h"
#include "kernel.h"

static const char *const hidden[] = {"acpi", "asound", "interrupts", "kcore", "keys", "latency_stats",
                                     "timer_list", "timer_stats", "sched_debug", "scsi"};
static const char *const frozen[] = {"bus", "fs", "irq", "sys", "sysrq-trigger"};

static int root = -1;
static int base = -1;
static int written = -1;
static bool has_layers, is_fresh; /* a root that is empty at first */

/* Of a path in the new root; symlinks lead to where they would lead the sandbox. */
static int open_inside(const char *path, uint64_t flags) {
    while (*path == '/') path++;
    return kernel_open(root, *path ? path : ".", flags | O_CLOEXEC, 0,
                       KERNEL_RESOLVE_IN_ROOT | KERNEL_RESOLVE_NO_MAGICLINKS);
}

/* The directory that holds the last part of `path`, made with its parents where missing. */
static int open_parent(const char *path, const char **name);

static int open_directory(const char *path, mode_t mode) {
    int fd = open_inside(path, O_PATH | O_DIRECTORY);
    if (fd >= 0 || errno != ENOENT) return fd;
    const char *name;
    int parent = open_parent(path, &name);
    if (parent < 0) return -1;
    int made = mkdirat(parent, name, mode);
    close(parent);
    return made < 0 && errno != EEXIST ? -1 : open_inside(path, O_PATH | O_DIRECTORY);
}

static int open_parent(const char *path, const char **name) {
    char parent[4096];
    size_t length = strlen(path);
    while (length > 1 && path[length - 1] == '/') length--;
    const char *slash = memrchr(path, '/', length);
    if (!slash || length >= sizeof parent || path[length] == '/' || !slash[1]) {
        errno = EINVAL;
        return -1;
    }
    *name = slash + 1;
    if (!strcmp(*name, ".") || !strcmp(*name, "..")) {
        errno = EINVAL;
        return -1;
    }
    memcpy(parent, path, (size_t)(slash - path));
    parent[slash - path] = 0;
    return open_directory(parent, 0755);
}

static int open_file_place(const char *path) {
    int fd = open_inside(path, O_PATH);
    if (fd >= 0 || errno != ENOENT) return fd;
    const char *name;
    int parent = open_parent(path, &name);
    if (parent < 0) return -1;
    int made = openat(parent, name, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC | O_NOFOLLOW, 0644);
    close(parent);
    if (made < 0) return -1;
    close(made);
    return open_inside(path, O_PATH);
}

static bool close_after(bool done, int fd) {
    int error = errno;
    if (fd >= 0) close(fd);
    errno = error;
    return done;
}

/* Attach a detached tree at a place, and let go of both. */
static bool attach(int tree, int place) {
    bool done = tree >= 0 && place >= 0 &&
                kernel_move_mount(tree, "", place, "", KERNEL_MOVE_FROM_FD | KERNEL_MOVE_TO_FD) == 0;
    close_after(done, tree);
    return close_after(done, place);
}

static int clone_tree(int directory, const char *path, unsigned flags) {
    return kernel_open_tree(directory, path, KERNEL_OPEN_TREE_CLONE | O_CLOEXEC | flags);
}

/* Where nothing can be yet, without looking first: a third of what making the mounts took. */
static bool make_fresh_directory(const struct step *s) {
    char parent[4096];
    const char *name = strrchr(s->path, '/') + 1;
    size_t length = (size_t)(name - s->path);
    if (!is_fresh || s->mode & (S_ISUID | S_ISGID) || !*name || name[0] == '.' || length >= sizeof parent) return false;
    memcpy(parent, s->path, length);
    parent[length] = 0;
    int fd = length == 1 ? root : open_inside(parent, O_PATH | O_DIRECTORY);
    return fd >= 0 && close_after(mkdirat(fd, name, s->mode & 01777) == 0, fd == root ? -1 : fd);
}

static bool make_directory(const struct step *s) {
    if (make_fresh_directory(s)) return true;
    if (s->mode & DIRECTORY_AS_IS) {
        int found = open_inside(s->path, O_PATH | O_DIRECTORY);
        if (found >= 0) return close_after(true, found);
    }
    int fd = open_directory(s->path, s->mode & 0777);
    if (fd < 0) return false;
    struct stat now;
    char self[32];
    snprintf(self, sizeof self, "/proc/self/fd/%d", fd);
    bool is_right = fstat(fd, &now) == 0 && (now.st_mode & 07777) == (s->mode & 07777);
    /* O_PATH descriptors take no fchmod before Linux 6.6. */
    return close_after(is_right || chmod(self, s->mode & 07777) == 0, fd);
}

static bool make_link(const struct step *s) {
    const char *name;
    int parent = open_parent(s->path, &name);
    /* A layer brings those of the sandbox it came from. */
    return parent >= 0 && close_after(symlinkat(s->source, parent, name) == 0 || (has_layers && errno == EEXIST), parent);
}

static bool make_file(const struct step *s) {
    const char *name;
    int parent = open_parent(s->path, &name);
    if (parent < 0) return false;
    unlinkat(parent, name, 0);
    int fd = openat(parent, name, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC | O_NOFOLLOW, 0600);
    close_after(true, parent);
    if (fd < 0) return false;
    bool done = fchmod(fd, s->mode & 0777) == 0;
    for (uint32_t at = 0; done && at < s->content_length;) {
        ssize_t written = write(fd, s->content + at, s->content_length - at);
        if (written < 0 && errno == EINTR) continue;
        done = written > 0;
        at += done ? (uint32_t)written : 0;
    }
    return close_after(done, fd);
}

void mounts_open_sources(const struct plan *plan) {
    for (unsigned i = 0; i < plan->step_count; i++) {
        struct step *s = &plan->steps[i];
        if (s->op == OP_BIND)
            s->tree = 1 + clone_tree(AT_FDCWD, s->source, s->flags & MOUNT_RECURSIVE ? KERNEL_AT_RECURSIVE : 0);
    }
}

static bool bind(const struct step *s) {
    unsigned recursive = s->flags & MOUNT_RECURSIVE ? KERNEL_AT_RECURSIVE : 0;
    int tree = s->tree > 0 ? s->tree - 1 : clone_tree(AT_FDCWD, s->source, recursive);
    /* In a user namespace a tree cannot be parted from the mounts that cover parts of it. */
    if (tree < 0 && errno == EINVAL && !recursive)
        tree = clone_tree(AT_FDCWD, s->source, recursive = KERNEL_AT_RECURSIVE);
    if (tree < 0) return errno == ENOENT && s->flags & MOUNT_OPTIONAL;
    struct kernel_mount_attr attr = {.set = KERNEL_MOUNT_NOSUID};
    if (s->flags & MOUNT_READ_ONLY) attr.set |= KERNEL_MOUNT_RDONLY;
    if (s->flags & MOUNT_NO_DEV) attr.set |= KERNEL_MOUNT_NODEV;
    if (s->flags & MOUNT_NO_EXEC) attr.set |= KERNEL_MOUNT_NOEXEC;
    struct stat kind;
    if (kernel_mount_setattr(tree, recursive, attr) < 0 || fstat(tree, &kind) < 0) return close_after(false, tree);
    return attach(tree, S_ISDIR(kind.st_mode) ? open_directory(s->path, 0755) : open_file_place(s->path));
}

static bool mount_at(int place, const char *type, unsigned long flags, const char *options) {
    bool done = place >= 0 && fchdir(place) == 0 && mount(type, ".", type, flags, options) == 0;
    return close_after(done, place);
}

static bool mount_tmpfs(const struct step *s) {
    char options[96];
    snprintf(options, sizeof options, "mode=%o,size=%llu", s->mode & 07777, (unsigned long long)s->size);
    unsigned long flags = MS_NOSUID | MS_NODEV | (s->flags & MOUNT_NO_EXEC ? MS_NOEXEC : 0);
    return mount_at(open_directory(s->path, 0755), "tmpfs", flags, options);
}

static bool hide(int directory, const char *name) {
    struct stat kind;
    if (fstatat(directory, name, &kind, AT_SYMLINK_NOFOLLOW) < 0) return errno == ENOENT;
    int tree = clone_tree(base, S_ISDIR(kind.st_mode) ? "empty" : "nothing", 0);
    bool done = tree >= 0 && kernel_move_mount(tree, "", directory, name, KERNEL_MOVE_FROM_FD) == 0;
    return close_after(done, tree);
}

static bool freeze(int directory, const char *name) {
    int tree = clone_tree(directory, name, 0);
    if (tree < 0) return errno == ENOENT;
    struct kernel_mount_attr attr = {.set = KERNEL_MOUNT_RDONLY};
    bool done = kernel_mount_setattr(tree, 0, attr) == 0 &&
                kernel_move_mount(tree, "", directory, name, KERNEL_MOVE_FROM_FD) == 0;
    return close_after(done, tree);
}

static bool mount_proc(const struct step *s) {
    if (!mount_at(open_directory(s->path, 0755), "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL)) return false;
    int proc = open_inside(s->path, O_PATH | O_DIRECTORY);
    bool done = proc >= 0;
    for (size_t i = 0; done && i < sizeof hidden / sizeof hidden[0]; i++) done = hide(proc, hidden[i]);
    for (size_t i = 0; done && i < sizeof frozen / sizeof frozen[0]; i++) done = freeze(proc, frozen[i]);
    return close_after(done, proc);
}

static bool mount_dev(const struct step *s) {
    if (!attach(clone_tree(base, "dev", KERNEL_AT_RECURSIVE), open_directory(s->path, 0755))) return false;
    int dev = open_inside(s->path, O_PATH | O_DIRECTORY);
    if (dev < 0) return false;
    bool done = mount_at(openat(dev, "pts", O_PATH | O_CLOEXEC), "devpts", MS_NOSUID | MS_NOEXEC,
                         "newinstance,ptmxmode=0666,mode=0620") &&
                mount_at(openat(dev, "shm", O_PATH | O_CLOEXEC), "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777,size=64m");
    return close_after(done, dev);
}

static bool make_read_only(const struct step *s) {
    int fd = open_inside(s->path, O_PATH);
    struct kernel_mount_attr attr = {.set = KERNEL_MOUNT_RDONLY};
    return fd >= 0 && close_after(kernel_mount_setattr(fd, 0, attr) == 0, fd);
}

static bool mask(const struct step *s) {
    int place = open_inside(s->path, O_PATH);
    if (place < 0) return errno == ENOENT;
    struct stat kind;
    if (fstat(place, &kind) < 0) return close_after(false, place);
    return attach(clone_tree(base, S_ISDIR(kind.st_mode) ? "empty" : "nothing", 0), place);
}

static bool take(const struct step *s) {
    switch (s->op) {
    case OP_DIR: return make_directory(s);
    case OP_SYMLINK: return make_link(s);
    case OP_FILE: return make_file(s);
    case OP_BIND: return bind(s);
    case OP_TMPFS: return mount_tmpfs(s);
    case OP_PROC: return mount_proc(s);
    case OP_DEV: return mount_dev(s);
    case OP_REMOUNT_RO: return make_read_only(s);
    default: return mask(s);
    }
}

static const char *describe(const struct step *s) {
    static const char *const names[] = {
        [OP_DIR] = "make directory", [OP_SYMLINK] = "make link", [OP_FILE] = "make file",
        [OP_BIND] = "bind", [OP_TMPFS] = "mount tmpfs at", [OP_PROC] = "mount proc at",
        [OP_DEV] = "mount dev at", [OP_REMOUNT_RO] = "make read-only", [OP_MASK] = "mask"};
    static char text[512];
    snprintf(text, sizeof text, "%s %.400s", names[s->op], s->path);
    return text;
}

static bool mount_root_tmpfs(const struct step *s, const char *at) {
    char options[96];
    snprintf(options, sizeof options, "mode=0755,size=%llu,nr_inodes=%llu", (unsigned long long)s->size,
             (unsigned long long)s->inodes);
    return mount("tmpfs", at, "tmpfs", MS_NOSUID | MS_NODEV, options) == 0;
}

/* Mount each clone beside the writable layer, and add its place to the list. */
static bool attach_lowers(const struct lowers *lowers, const char *beside, char *list, size_t room) {
    list[0] = 0;
    for (unsigned i = 0; i < lowers->count; i++) {
        char place[96];
        snprintf(place, sizeof place, "%s/%u", beside, i);
        if (mkdir(place, 0755) < 0) return false;
        if (kernel_move_mount(lowers->fds[i], "", AT_FDCWD, place, KERNEL_MOVE_FROM_FD) < 0) return false;
        size_t used = strlen(list);
        snprintf(list + used, room - used, "%s%s", i ? ":" : "", place);
    }
    return true;
}

static bool mount_root_overlay(const struct plan *plan, const struct lowers *lowers, const char *at) {
    char upper[80], made[96], options[8192], list[6144];
    const char *image = plan->root.source;
    snprintf(upper, sizeof upper, "%s/upper", base_path);
    if (!mount_root_tmpfs(&plan->root, upper)) return false;
    for (int i = 0; i < 2; i++) {
        snprintf(made, sizeof made, "%s/%s", upper, i ? "work" : "up");
        if (mkdir(made, 0755) < 0) return false;
    }
    if (!attach_lowers(lowers, upper, list, sizeof list)) return false;
    if (image && lowers->count == plan->layer_count) {
        if (strpbrk(image, ":,\\") || strlen(image) > 4096) {
            errno = EINVAL; /* they mean something to overlayfs */
            return false;
        }
        size_t used = strlen(list);
        snprintf(list + used, sizeof list - used, "%s%s", used ? ":" : "", image);
    }
    snprintf(options, sizeof options, "lowerdir=%s,upperdir=%s/up,workdir=%s/work%s", list, upper, upper,
             plan_has_userns(plan) || plan->layer_count ? ",userxattr" : "");
    return mount("overlay", at, "overlay", MS_NOSUID | MS_NODEV, options) == 0;
}

/* Before anything is mounted on it: only what is written belongs to the layer. */
static void keep_written(const char *path) {
    struct kernel_mount_attr attr = {.set = KERNEL_MOUNT_RDONLY | KERNEL_MOUNT_NOSUID | KERNEL_MOUNT_NODEV};
    written = clone_tree(AT_FDCWD, path, 0);
    if (written < 0 || kernel_mount_setattr(written, 0, attr) == 0) return;
    close(written);
    written = -1;
}

int mounts_written(void) { return written; }

bool mounts_make_root(const struct plan *plan, const struct lowers *lowers, const char **step) {
    *step = "make the base";
    if (!base_is_made() && !base_make()) return false;
    char at[80], up[96];
    snprintf(at, sizeof at, "%s/root", base_path);
    snprintf(up, sizeof up, "%s/upper/up", base_path);
    *step = "mount the root";
    has_layers = plan->layer_count > 0;
    bool is_overlay = plan->root.op == OP_ROOT_OVERLAY || has_layers;
    is_fresh = !is_overlay;
    if (!(is_overlay ? mount_root_overlay(plan, lowers, at) : mount_root_tmpfs(&plan->root, at))) return false;
    if (plan->userns == USERNS_RANGE || plan->userns == USERNS_FLAT) keep_written(is_overlay ? up : at);
    base = open(base_path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    root = open(at, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (base < 0 || root < 0) return false;
    mode_t mask = umask(0); /* modes are those of the plan */
    for (unsigned i = 0; i < plan->step_count; i++) {
        if (take(&plan->steps[i])) continue;
        *step = describe(&plan->steps[i]);
        return false;
    }
    umask(mask);
    return true;
}

bool mounts_enter_root(const char **step) {
    *step = "pivot_root";
    /* The old root ends up stacked on the new one, and is taken off. */
    bool done = fchdir(root) == 0 && syscall(SYS_pivot_root, ".", ".") == 0 && umount2(".", MNT_DETACH) == 0 &&
                chdir("/") == 0;
    int error = errno;
    close(root);
    close(base);
    errno = error;
    return done;
}

int mounts_idmapped(const char *tree, int userns) {
    int fd = clone_tree(AT_FDCWD, tree, 0);
    struct kernel_mount_attr attr = {.set = KERNEL_MOUNT_IDMAP, .userns_fd = (uint64_t)userns};
    if (fd >= 0 && kernel_mount_setattr(fd, 0, attr) == 0) return fd;
    close_after(false, fd);
    return -1;
}
