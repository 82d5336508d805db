/* Processes that sit in control groups made ahead, for sandboxes to be born in.
 *
 * A move into a cgroup v1 group waits for a grace period of the kernel: 10 ms on an idle host. A child is
 * born in the group of whoever clones it and need not move. So a few processes wait in groups of their
 * own; who takes one gets its groups under another name, has it clone the sandbox (as a child of the
 * launcher), and it ends. Each is used once, and so is each group. */
#ifndef FAAS_SPARES_H
#define FAAS_SPARES_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "frames.h"
#include "plan.h"

struct spare;

/* The SPARES request: how many to keep, under which prefix, in which parents. Returns an errno. */
int spares_configure(struct reader *r);
/* One more is wanted; the caller makes it when it has nothing else to do. */
bool spares_are_wanted(void);
void spares_make_one(void);
/* One whose groups are now the plan's cells; NULL when none is ready. */
struct spare *spares_take(const struct plan *plan);
/* Have it clone the sandbox of the plan in `bytes`; the child's pid or -1 with errno. Ends the spare. */
pid_t spares_clone(struct spare *spare, const uint8_t *bytes, uint32_t length, int listener, int gate, int netns, int *pidfd);
/* It will not be used: its groups stay, under their new names. */
void spares_drop(struct spare *spare);
/* Whether it was one of ours that ended. */
bool spares_reaped(pid_t pid);
/* The launcher ends: so do they, and their groups go. */
void spares_end(void);

#endif
