/* What sandboxes wrote, kept for others to start from. Each layer is a mount in the launcher's own
 * namespace, so all of them go with the launcher and none has to be found by the next. */
#ifndef FAAS_LAYERS_H
#define FAAS_LAYERS_H

#include <stdbool.h>
#include <stdint.h>

#include "frames.h"

enum {
    LAYER_FD = 3, /* in the agent: its sandbox's writable layer, read-only, mounted nowhere */
    LAYERS_KEPT_MAX = 256,
};
enum layer_verb { LAYER_TAKE = 1, LAYER_MAKE, LAYER_DROP, LAYER_LOOK };

/* Make the place they are mounted at; without it every request fails. */
void layers_start(void);
/* Do one request; `pidfd` names the sandbox of TAKE and LOOK. Returns an errno or 0; `opened` is a
 * descriptor of the layer's top to hand back, or -1. */
int layers_do(struct reader *r, int pidfd, int *opened);
/* A read-only clone of a layer for the owners of that user namespace; -1 with errno. */
int layers_clone(uint64_t number, int userns);

#endif
