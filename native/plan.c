#include "plan.h"

#include <stdlib.h>
#include <string.h>

#include "frames.h"

static char *read_path(struct reader *r) {
    char *path = read_string(r);
    if (path && path[0] != '/') r->bad = true;
    return path;
}

static bool read_userns(struct plan *plan, struct reader *r) {
    uint8_t kind = read_u8(r);
    plan->userns = (enum userns_kind)kind;
    plan->uid = read_u32(r);
    plan->gid = read_u32(r);
    plan->count = read_u32(r);
    bool is_range = kind == USERNS_RANGE || kind == USERNS_FLAT;
    bool is_sane = plan->count && plan->uid + plan->count > plan->uid && plan->gid + plan->count > plan->gid;
    bool is_nobody = kind != USERNS_FLAT || (plan->uid && plan->gid);
    return kind <= USERNS_FLAT && (!is_range || is_sane) && is_nobody;
}

static bool read_cgroup(struct plan *plan, struct reader *r) {
    if (plan->cgroup_count == CGROUPS_MAX) return false;
    return (plan->cgroups[plan->cgroup_count++] = read_path(r)) != NULL;
}

static bool read_cell(struct plan *plan, struct reader *r) {
    if (plan->cell_count == CGROUPS_MAX) return false;
    return (plan->cells[plan->cell_count++] = read_path(r)) != NULL;
}

static bool read_rlimit(struct plan *plan, struct reader *r) {
    if (plan->rlimit_count == RLIMITS_MAX) return false;
    unsigned i = plan->rlimit_count++;
    plan->rlimits[i].resource = read_u32(r);
    plan->rlimits[i].soft = read_u64(r);
    plan->rlimits[i].hard = read_u64(r);
    return true;
}

static bool read_layers(struct plan *plan, struct reader *r) {
    uint32_t count = read_u32(r);
    if (plan->layer_count || !count || count > LAYERS_MAX) return false;
    for (uint32_t i = 0; i < count; i++) plan->layers[plan->layer_count++] = read_u64(r);
    return true;
}

static void read_step(struct step *s, struct reader *r) {
    switch (s->op) {
    case OP_ROOT_OVERLAY:
    case OP_ROOT_TMPFS:
        if (s->op == OP_ROOT_OVERLAY) s->source = read_path(r);
        s->size = read_u64(r);
        s->inodes = read_u64(r);
        if (s->op == OP_ROOT_OVERLAY) s->flags = read_u8(r);
        break;
    case OP_SYMLINK:
        s->source = read_string(r);
        s->path = read_path(r);
        break;
    case OP_BIND:
        s->source = read_path(r);
        s->path = read_path(r);
        s->flags = read_u8(r);
        break;
    case OP_TMPFS:
        s->path = read_path(r);
        s->size = read_u64(r);
        s->mode = read_u32(r);
        s->flags = read_u8(r);
        break;
    default: /* DIR, FILE, PROC, DEV, REMOUNT_RO, MASK */
        s->path = read_path(r);
        if (s->op == OP_DIR || s->op == OP_FILE) s->mode = read_u32(r);
        if (s->op == OP_FILE) s->content = read_blob(r, &s->content_length);
    }
}

static bool read_op(struct plan *plan, uint8_t op, struct reader *r) {
    switch (op) {
    case OP_HOSTNAME:
        if (plan->hostname) return false;
        return (plan->hostname = read_string(r)) != NULL;
    case OP_USERNS: return read_userns(plan, r);
    case OP_CGROUP: return read_cgroup(plan, r);
    case OP_NETNS: {
        uint8_t kind = read_u8(r);
        plan->netns = (enum netns_kind)kind;
        return kind <= NETNS_POOLED;
    }
    case OP_PIDFILE:
        if (plan->pidfile) return false;
        return (plan->pidfile = read_path(r)) != NULL;
    case OP_RLIMIT: return read_rlimit(plan, r);
    case OP_CELL: return read_cell(plan, r);
    case OP_CHORES: plan->chores = read_blob(r, &plan->chores_length); return true;
    case OP_LAST_PID: plan->last_pid = read_u32(r); return true;
    case OP_SECCOMP: plan->seccomp = read_blob(r, &plan->seccomp_length); return true;
    case OP_LAYERS: return read_layers(plan, r);
    default: break;
    }
    if (op > OP_MASK || op == 0) return false;
    bool is_root = op == OP_ROOT_TMPFS || op == OP_ROOT_OVERLAY;
    if (is_root ? plan->root.op != 0 : plan->step_count == STEPS_MAX) return false;
    struct step *s = is_root ? &plan->root : &plan->steps[plan->step_count++];
    s->op = op;
    read_step(s, r);
    return true;
}

bool plan_read(struct plan *plan, const uint8_t *bytes, uint32_t length, const char **what) {
    *plan = (struct plan){.userns = USERNS_NONE};
    for (unsigned i = 0; i < CGROUPS_MAX; i++) plan->cgroup_fds[i] = -1;
    *what = "the plan";
    plan->steps = calloc(STEPS_MAX, sizeof *plan->steps);
    if (!plan->steps) return false;
    struct reader r = {bytes, length, false};
    while (r.left) {
        uint8_t op = read_u8(&r);
        uint32_t fields_length;
        const uint8_t *fields = read_blob(&r, &fields_length);
        struct reader f = {fields, fields_length, r.bad};
        if (!fields || !read_op(plan, op, &f) || !read_done(&f)) return false;
    }
    *what = "a plan without a root";
    if (plan->layer_count && plan->userns != USERNS_RANGE && plan->userns != USERNS_FLAT) {
        *what = "layers without users of its own";
        return false;
    }
    return plan->root.op != 0;
}

void plan_free(struct plan *plan) {
    free(plan->hostname);
    free(plan->pidfile);
    for (unsigned i = 0; i < plan->cgroup_count; i++) free(plan->cgroups[i]);
    for (unsigned i = 0; i < plan->cell_count; i++) free(plan->cells[i]);
    free(plan->root.source);
    for (unsigned i = 0; i < plan->step_count; i++) {
        free(plan->steps[i].path);
        free(plan->steps[i].source);
    }
    free(plan->steps);
    *plan = (struct plan){.userns = USERNS_NONE};
}
