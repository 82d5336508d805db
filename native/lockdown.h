/* Giving up power: capabilities, privileges, system calls. */
#ifndef FAAS_LOCKDOWN_H
#define FAAS_LOCKDOWN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Keep what the agent needs to start and end commands and to handle their files; nothing can come back.
 * Works as far as the process has the power to give up; never fails. */
void lockdown_agent(void);
/* In a command, just before it is loaded: no capability in any set. */
bool lockdown_drop_everything(void);
/* As another user, keeping the capabilities: a command that is user 0 cannot signal such a process. */
void lockdown_hide_behind_user(void);
bool lockdown_seccomp(const uint8_t *program, size_t bytes);

#endif
