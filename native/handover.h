/* What the launcher does to a child from outside, and to itself at start. */
#ifndef FAAS_HANDOVER_H
#define FAAS_HANDOVER_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "plan.h"

bool handover_is_sealed(void);
/* Run this program again from a sealed copy in memory; returns only when that fails. */
void handover_reexecute(char *control);

int handover_open_cgroup2(const char *procs_file);
bool handover_map_users(const struct plan *plan, pid_t pid);
/* GATE_MAPPED, with idmapped clones of what the plan wants below its root. */
bool handover_open_gate(const struct plan *plan, pid_t pid, int gate);
/* Field 22 of its stat file; 0 when it is gone. */
uint64_t handover_start_time(pid_t pid);
bool handover_write_pid(const char *path, pid_t pid, uint64_t started);

#endif
