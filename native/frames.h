/* The numbers of PROTOCOL.md and how their bytes are read and written. Nothing here touches a descriptor. */
#ifndef FAAS_FRAMES_H
#define FAAS_FRAMES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    PROTOCOL_VERSION = 1,
    HEADER_BYTES = 12,
    PAYLOAD_MAX = 1 << 20,
    CHUNK_MAX = 512 << 10,      /* of one READ, WRITE */
    NAME_MAX_BYTES = 64,        /* of a command */
    COMMANDS_MAX = 256,
    CONNECTIONS_MAX = 8,
    STDIN_WINDOW = 1 << 20,     /* held for a command that does not read */
    ANSWERS_MAX = 256 << 10,    /* waiting for a host that does not read */
    DIR_ENTRIES_MAX = 1000,     /* in one answer */
    ROOTS_MAX = 16,             /* processes of one command that are no other's children */
    STRINGS_MAX = 65536,        /* in argv or env; the kernel's own limits are lower in bytes */
};

enum frame_type {
    FRAME_HELLO = 1, FRAME_EXEC, FRAME_STDIN, FRAME_SIGNAL, FRAME_RESIZE, FRAME_ATTACH, FRAME_LIST, FRAME_RELEASE,
    FRAME_STAT = 16, FRAME_LIST_DIR, FRAME_READ, FRAME_WRITE, FRAME_REMOVE, FRAME_MKDIR, FRAME_RENAME, FRAME_TAR_IN, FRAME_TAR_OUT,
    FRAME_CONNECT, FRAME_EXPORT, FRAME_ADOPT,
    FRAME_HELLO_OK = 65, FRAME_STARTED, FRAME_OUTPUT, FRAME_EXIT, FRAME_STDIN_OK, FRAME_OK, FRAME_ERROR, FRAME_LIST_OK, FRAME_STAT_OK,
    FRAME_DIR_OK, FRAME_DATA, FRAME_CONNECTED, FRAME_EXPORTED,
};

enum exec_flag { EXEC_EXCLUSIVE = 1, EXEC_TTY = 2, EXEC_STDIN_OPEN = 4, EXEC_STDIN_FD = 8, ADOPT_BACKGROUND = 16 };
enum export_flag { EXPORT_STANDS_STILL = 1 };
enum exit_reason { EXITED, SIGNALLED, TIMED_OUT, CANCELLED };

struct frame {
    uint8_t type, flags;
    uint32_t id;
    const uint8_t *payload;
    uint32_t length;
};

/* A cursor that can only fail: once `bad`, every read gives zero and stays bad. */
struct reader {
    const uint8_t *at;
    size_t left;
    bool bad;
};

uint8_t read_u8(struct reader *r);
uint16_t read_u16(struct reader *r);
uint32_t read_u32(struct reader *r);
uint64_t read_u64(struct reader *r);
/* Bytes in place; NULL when bad. */
const uint8_t *read_blob(struct reader *r, uint32_t *length);
/* A copy with a NUL at its end, to be freed; NULL and bad when it holds NUL, is too long or memory is out. */
char *read_string(struct reader *r);
/* Nothing is left and nothing went wrong. */
bool read_done(const struct reader *r);

/* Bytes that grow. After a failed growth `failed` is set and nothing more is added. */
struct buffer {
    uint8_t *data;
    size_t length, capacity;
    bool failed;
};

bool buffer_reserve(struct buffer *b, size_t more);
void buffer_free(struct buffer *b);
void put_bytes(struct buffer *b, const void *bytes, size_t length);
void put_u8(struct buffer *b, uint8_t value);
void put_u16(struct buffer *b, uint16_t value);
void put_u32(struct buffer *b, uint32_t value);
void put_u64(struct buffer *b, uint64_t value);
void put_string(struct buffer *b, const char *text);
/* Start a frame; returns where it starts, for frame_end to fill in the length. */
size_t frame_begin(struct buffer *b, uint8_t type, uint32_t id);
void frame_end(struct buffer *b, size_t start);

#endif
