/* Making sandboxes: the launcher, and what its child does until it is the agent. */
#ifndef FAAS_LAUNCH_H
#define FAAS_LAUNCH_H

#include <stdbool.h>
#include <stdint.h>

#include "plan.h"

int launch_main(int argc, char **argv);
/* pause.c */
int pause_main(int argc, char **argv);
int relay_main(int argc, char **argv);
int tunnel_main(int argc, char **argv);

/* sandbox.c */
enum gate { GATE_MAPPED = 'm', GATE_GO = 'g', GATE_STEP_MAX = 512 };
/* In the new namespaces; becomes the agent or tells the gate what failed. Never returns. */
_Noreturn void sandbox_main(const struct plan *plan, int listener, int gate, bool brings_lo_up);

/* launch.c */
/* Clone the child of a plan; in the parent its pid, or -1 with errno. `as_sibling`: a child of our parent. */
int launch_clone(const struct plan *plan, int *pidfd, int listener, int gate, bool has_netns, int cgroup, bool as_sibling);

/* netns.c */
/* Start making network namespaces ahead of time; without it netns_take finds none. */
void netns_start(void);
/* One that bears no trace of anybody, lo up; -1 when there is none ready. */
int netns_take(void);
/* Ours no more: it is the sandbox's of that first process until that has ended. */
void netns_lend(int pid, int fd);
void netns_ended(int pid);
bool netns_lo_up(void);
bool netns_is_maker(int pid);

#endif
