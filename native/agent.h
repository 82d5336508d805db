/* What the parts of the agent share. One thread, one epoll set, nothing blocks. */
#ifndef FAAS_AGENT_H
#define FAAS_AGENT_H

#include <sys/resource.h>
#include <sys/types.h>

#include "frames.h"

struct command;
struct connection;

enum watch_kind {
    WATCH_LISTEN, WATCH_SIGNALS, WATCH_CONNECTION, WATCH_STDOUT, WATCH_STDERR, WATCH_STDIN,
    WATCH_SUPERVISOR, WATCH_WORKER,
};

struct agent {
    int epoll, listener, signals, null;
    bool has_callers;   /* somebody waits at the listener */
    bool is_init;       /* kill(-1) reaches the sandbox and nothing else */
    uint8_t boot_id[16];
    uint32_t generation;
    struct connection *connections[CONNECTIONS_MAX];
    struct command *commands[COMMANDS_MAX];
};

extern struct agent agent;

/* Serve until the end of the world; never returns when PID 1. */
int agent_run(int listener, bool is_init);
int agent_main(int argc, char **argv);
/* A listening socket at a path, whatever was there before; -1 when there can be none. */
int listen_at(const char *path);
/* Whoever started us may have ignored some, and commands would inherit that. */
void signals_by_default(void);

uint64_t now_ns(void);
/* A stale event of a slot that was reused has another generation and is dropped. */
uint32_t next_generation(void);
bool watch(int fd, enum watch_kind kind, uint32_t slot, uint32_t generation, uint32_t events);
void rewatch(int fd, enum watch_kind kind, uint32_t slot, uint32_t generation, uint32_t events);
void close_fd(int *fd);

/* connection.c */
void connection_accept(int listener);
void connection_event(uint32_t slot, uint32_t generation, uint32_t events);
/* True when a host that did not read does again: what was held back for it may go. */
bool connections_flush(void);
bool connection_is_stuck(uint32_t slot);
struct buffer *connection_answers(uint32_t slot);
/* Take the next descriptor that came with the frames; -1 when there is none. */
int connection_take_fd(uint32_t slot);
int connection_fd_count(uint32_t slot);
uint32_t connection_generation(uint32_t slot);
/* 0, or why no descriptor can be handed out there now. */
int connection_may_pass(uint32_t slot);
/* Hand out a descriptor with the next byte that is answered; it is ours no more. */
void connection_pass(uint32_t slot, int fd);

void answer_ok(uint32_t slot, uint32_t id, uint64_t count);
void answer_error(uint32_t slot, uint32_t id, int error, const char *tried);
/* False: the frame is malformed, the connection ends. */
bool agent_frame(uint32_t slot, const struct frame *frame);

/* command.c */
bool command_exec(uint32_t slot, const struct frame *frame);
bool command_stdin(uint32_t slot, const struct frame *frame);
bool command_signal(uint32_t slot, const struct frame *frame);
bool command_resize(uint32_t slot, const struct frame *frame);
bool command_attach(uint32_t slot, const struct frame *frame);
bool command_list(uint32_t slot, const struct frame *frame);
bool command_release(uint32_t slot, const struct frame *frame);
/* restored.c */
bool command_export(uint32_t slot, const struct frame *frame);
bool command_adopt(uint32_t slot, const struct frame *frame);
void commands_event(enum watch_kind kind, uint32_t slot, uint32_t generation, uint32_t events);
void commands_reaped(pid_t pid, int status, const struct rusage *usage);
/* After a round of reaping; `childless` when no process is left below the agent. */
void commands_settle(bool childless);
void commands_tick(void);
/* Milliseconds for epoll_wait; -1 when no timer runs. */
int commands_next_timeout(void);
void commands_push_output(void);
void commands_forget_connection(uint32_t slot);

/* worker.c */
void worker_event(uint32_t slot, uint32_t generation);
bool worker_reaped(pid_t pid);
void workers_forget_connection(uint32_t slot);
bool worker_is(pid_t pid);

/* ports.c */
bool port_connect(uint32_t slot, const struct frame *frame);

/* files.c */
bool files_frame(uint32_t slot, const struct frame *frame);

#endif
