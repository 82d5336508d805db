/* Running CRIU inside the namespaces of a sandbox, see checkpoint.c. */
#ifndef FAAS_CHECKPOINT_H
#define FAAS_CHECKPOINT_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "frames.h"

enum { CHECKPOINT_FDS_MAX = 30 };

/* Start one run, asked for by `r`; 0, or the errno of what is wrong. Takes over no descriptor. */
int checkpoint_start(uint32_t id, struct reader *r, const int *fds, unsigned fd_count);
/* Whether that child was such a run, and which. */
bool checkpoint_ended(pid_t pid, uint32_t *id);

#endif
