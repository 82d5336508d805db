/* One command: what the files command.c, output.c, input.c and supervisor.c share. */
#ifndef FAAS_COMMAND_H
#define FAAS_COMMAND_H

#include <sys/resource.h>

#include "agent.h"
#include "spawn.h"

enum command_state { STARTING, RUNNING, ENDING, ENDED };

/* One output stream: a pipe (or the terminal) to read, a spool to append to. */
struct stream {
    int source, spool;
    bool is_hung_up; /* a terminal nobody has open, for now */
    uint64_t kept, total;
};

struct input {
    int sink;            /* pipe or terminal; -1 when closed or there is none */
    int file;            /* fed before any frame; -1 when there is none */
    uint64_t file_at;
    uint8_t *held;       /* a window of bytes the command has not read yet */
    size_t start, length;
    uint64_t taken;
    bool is_terminal, is_fed, is_open, is_last, is_watched;
};

struct command {
    char name[NAME_MAX_BYTES + 1]; /* empty: forgotten, background output is still thrown away */
    uint32_t slot, generation;
    enum command_state state;
    bool is_exclusive, is_supervised, is_reaped, is_tree_gone;
    bool is_tree_killed;           /* by us, before its supervisor: nothing of it came to us */
    bool is_lone;                  /* nothing ran when it began: what is below no supervisor is its own */
    pid_t pid, supervisor;
    pid_t roots[ROOTS_MAX];        /* of a restored command: our children of it that live */
    unsigned root_count;
    bool was_restored;
    int supervision;               /* socket to the supervisor */
    struct stream streams[2];
    uint64_t output_max;
    struct input input;
    uint64_t started_ns, deadline_ns, grace_ns, kill_ns;
    unsigned kills;
    bool is_terminated, is_timed_out, is_cancelled;
    int status, exit_override;     /* override: 126 or 127, never loaded; else -1 */
    struct rusage usage;
    uint64_t wall_us;
    uint32_t ids[CONNECTIONS_MAX];
    uint8_t attached, changed;     /* bit per connection */
};

/* output.c */
/* Read what is there; false when the stream is at its end. `bytes_max` bounds a stream that never is. */
bool stream_drain(struct command *command, int which, uint64_t bytes_max);
void stream_drain_to_end(struct command *command, int which);
void stream_append(struct command *command, int which, const void *bytes, size_t length);
void stream_closed(struct command *command, int which);

/* input.c */
uint64_t input_take(struct input *input, uint64_t offset, const uint8_t *bytes, uint32_t length, bool is_last);
void input_pump(struct command *command);
void input_close(struct input *input);

/* supervisor.c */
enum supervisor_event { SUPERVISED_STARTED = 1, SUPERVISED_FAILED, SUPERVISED_ENDED };
enum supervisor_request { SUPERVISE_SIGNAL = 1, SUPERVISE_SIGNAL_TREE, SUPERVISE_KILL_TREE };
struct supervisor_message {
    int32_t kind, value, step;
    struct rusage usage;
};
bool supervisor_start(struct command *command, struct spawn *spawn);
bool supervisor_ask(struct command *command, enum supervisor_request request, int signal);
/* The children of a process that live, but for the agent's workers and supervisors; -1: more than ROOTS_MAX. */
int supervisor_children(pid_t parent, pid_t *children);
/* Signal a restored command, which has no supervisor: its roots and what is below them. */
void supervisor_signal_roots(const struct command *command, int signal);
/* Kill what is below a supervisor, which is killed next: else it would come to the agent, as nobody's. */
void supervisor_kill_tree(pid_t supervisor);
/* Signal a command that began alone: all that is below the agent but below no supervisor. */
void supervisor_signal_lone(int signal);
/* Kill what is below the agent but below no process it knows: the tree of a supervisor that was killed. */
void supervisor_kill_strays(void);

/* exec.c */
/* Why no command of that name can begin; 0: it can. */
int command_refusal(const char *name, uint32_t slot, uint32_t id);
struct command *command_admit(const char *name);

/* command.c */
struct command *command_named(const char *name);
struct command *command_find(uint32_t slot, uint32_t id);
bool command_owns(pid_t pid);
void command_attach_to(struct command *command, uint32_t slot, uint32_t id);
void command_put_started(struct command *command, uint32_t slot);
void command_put_exit(struct command *command, uint32_t slot);
void command_forget(struct command *command);
/* Whether anything started by a command may still run. */
bool commands_any_alive(void);
void command_supervised(struct command *command, const struct supervisor_message *message);

#endif
