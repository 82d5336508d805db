/* The new root of a sandbox, step by step. Everything below it may be hostile (an image's symlinks):
 * paths are resolved inside it, never on the host. */
#ifndef FAAS_MOUNTS_H
#define FAAS_MOUNTS_H

#include <stdbool.h>

#include "plan.h"

/* What every sandbox shares: /dev, empty things to hide others behind, places to mount on. Made once
 * by a launcher with root in its own mount namespace, or by each child in its own. */
bool base_make(void);
bool base_is_made(void);

/* Clones for this sandbox's owners: of each layer of the plan, the topmost first, then of the image
 * where the kernel can. */
struct lowers {
    int fds[LAYERS_MAX + 1];
    unsigned count;
};

/* On failure errno is set and `step` holds what was being tried. */
/* Open what will be bound while we are still who may pass the host's private directories: as root of
 * the sandbox we are nobody there. What cannot be opened now is tried again later, and reported then. */
void mounts_open_sources(const struct plan *plan);
bool mounts_make_root(const struct plan *plan, const struct lowers *lowers, const char **step);
bool mounts_enter_root(const char **step);
/* A read-only tree of what this sandbox writes, mounted nowhere; -1 when there is none. */
int mounts_written(void);
/* An idmapped clone of that tree for the user namespace of `pid`; -1 where the kernel refuses. */
int mounts_idmapped(const char *tree, int userns);

#endif
