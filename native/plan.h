/* A launch packet, read and checked. Reading touches nothing but memory. */
#ifndef FAAS_PLAN_H
#define FAAS_PLAN_H

#include <stdbool.h>
#include <stdint.h>

enum {
    PACKET_MAX = 128 << 10,
    STEPS_MAX = 1024,
    CGROUPS_MAX = 16,
    RLIMITS_MAX = 16,
    LAYERS_MAX = 16,
};

enum plan_op {
    OP_HOSTNAME = 1, OP_USERNS, OP_CGROUP, OP_NETNS, OP_PIDFILE, OP_RLIMIT, OP_SECCOMP, OP_ROOT_TMPFS,
    OP_ROOT_OVERLAY, OP_DIR, OP_SYMLINK, OP_FILE, OP_BIND, OP_TMPFS, OP_PROC, OP_DEV, OP_REMOUNT_RO, OP_MASK,
    OP_CELL, OP_CHORES, OP_LAST_PID = 22, OP_LAYERS,
};
enum userns_kind { USERNS_NONE, USERNS_RANGE, USERNS_SINGLE, USERNS_FLAT };
enum netns_kind { NETNS_NEW, NETNS_HOST, NETNS_POOLED };
/* Of a DIR: one that is there already stays as it is. */
#define DIRECTORY_AS_IS 0x80000000U
enum mount_flag { MOUNT_READ_ONLY = 1, MOUNT_RECURSIVE = 2, MOUNT_OPTIONAL = 4, MOUNT_NO_DEV = 8, MOUNT_NO_EXEC = 16 };

/* One step on the new root. */
struct step {
    uint8_t op, flags;
    uint32_t mode, content_length;
    uint64_t size, inodes;
    int tree; /* of a bind: its source plus one once opened, 0 before */
    char *path, *source;
    const uint8_t *content;
};

struct plan {
    char *hostname, *pidfile;
    enum userns_kind userns;
    uint32_t uid, gid, count;
    uint32_t last_pid; /* the first process after the agent gets the next number; 0 leaves it */
    enum netns_kind netns;
    char *cgroups[CGROUPS_MAX];
    int cgroup_fds[CGROUPS_MAX]; /* opened by the launcher for the child to join by; -1: none, or joined by clone */
    unsigned cgroup_count;
    char *cells[CGROUPS_MAX]; /* groups that are not there yet, and of which it becomes a member */
    unsigned cell_count;
    const uint8_t *chores; /* the parent's, once the cells are made */
    uint32_t chores_length;
    struct { uint32_t resource; uint64_t soft, hard; } rlimits[RLIMITS_MAX];
    unsigned rlimit_count;
    const uint8_t *seccomp;
    uint32_t seccomp_length;
    struct step root;
    uint64_t layers[LAYERS_MAX]; /* of the launcher's, the topmost first */
    unsigned layer_count;
    struct step *steps;
    unsigned step_count;
};

/* False when the bytes are not a plan; `what` then says where. The plan points into `bytes`. */
bool plan_read(struct plan *plan, const uint8_t *bytes, uint32_t length, const char **what);
void plan_free(struct plan *plan);
static inline bool plan_has_userns(const struct plan *plan) {
    return plan->userns == USERNS_RANGE || plan->userns == USERNS_SINGLE;
}

#endif
