/* Small file work of the host, done here so that the gateway's loop does none. */
#ifndef FAAS_CHORES_H
#define FAAS_CHORES_H

#include <stdint.h>

#include "frames.h"

enum chore { CHORE_MKDIR = 1, CHORE_WRITE, CHORE_UNLINK, CHORE_RMDIR };
enum chore_flag { CHORE_OPTIONAL = 1 };

/* Do them in order up to the first that fails; returns its errno and its place, or 0. */
int chores_do(struct reader *r, uint32_t *place);

#endif
