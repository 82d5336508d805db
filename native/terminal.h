/* What was typed on a terminal and not read yet, see terminal.c. */
#ifndef FAAS_TERMINAL_H
#define FAAS_TERMINAL_H

#include <stdbool.h>

#include "frames.h"

enum { TYPED_MAX = 16 << 10 }; /* as it is exported; what a terminal holds is at most a quarter */

/* Open the other end of a terminal, for a moment and without becoming its session; -1 with errno. */
int terminal_peer(int master);
/* Copy what nobody has read, and leave it there. Only while everybody who could read it stands still. False with
 * errno: EBUSY when it cannot be done now. */
bool terminal_peek(int master, struct buffer *typed);
/* Put there what terminal_peek copied elsewhere, without an echo. False with errno. */
bool terminal_type(int master, const uint8_t *typed, size_t length);

#endif
