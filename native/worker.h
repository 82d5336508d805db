#ifndef FAAS_WORKER_H
#define FAAS_WORKER_H

#include "agent.h"

/* Runs in the forked process; puts the answer's type and payload into `answer`. */
typedef void worker_body(struct buffer *answer, int passed, const void *argument);
/* 0, or the errno of what prevented it. `passed` (or -1) stays open in the worker. */
int worker_start(uint32_t slot, uint32_t id, int passed, worker_body *body, const void *argument);
void worker_answer_error(struct buffer *answer, int error, const char *tried);
void worker_answer_ok(struct buffer *answer, uint64_t count);

/* tree.c */
void put_entry(struct buffer *b, int directory, const char *name, const char *shown);
void tree_list(struct buffer *answer, int passed, const void *request);
void tree_remove(struct buffer *answer, int passed, const void *path);
struct list_request {
    const char *path;
    uint32_t skip;
};

/* tar_in.c, tar_out.c */
void tar_in(struct buffer *answer, int source, const void *path);
void tar_out(struct buffer *answer, int sink, const void *path);

/* files.c */
bool make_parents(const char *path, bool is_itself, unsigned mode);

#endif
