/* What a network namespace shows of what was done in it. */
#ifndef FAAS_TRACES_H
#define FAAS_TRACES_H

#include <stdbool.h>
#include <stddef.h>

enum { TRACES_MAX = 32768 };

struct traces {
    size_t length;
    char text[TRACES_MAX];
};

/* Of the namespace we are in: every counter, socket and address that `/proc/net` has for it. */
bool traces_read(struct traces *traces);
bool traces_equal(const struct traces *a, const struct traces *b);

#endif
