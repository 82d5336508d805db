#include "frames.h"

#include <stdlib.h>
#include <string.h>

static const uint8_t *take(struct reader *r, size_t length) {
    if (r->bad || r->left < length) {
        r->bad = true;
        return NULL;
    }
    const uint8_t *at = r->at;
    r->at += length;
    r->left -= length;
    return at;
}

static uint64_t read_little(struct reader *r, size_t bytes) {
    const uint8_t *at = take(r, bytes);
    uint64_t value = 0;
    for (size_t i = bytes; at && i-- > 0;) value = value << 8 | at[i];
    return value;
}

uint8_t read_u8(struct reader *r) { return (uint8_t)read_little(r, 1); }
uint16_t read_u16(struct reader *r) { return (uint16_t)read_little(r, 2); }
uint32_t read_u32(struct reader *r) { return (uint32_t)read_little(r, 4); }
uint64_t read_u64(struct reader *r) { return read_little(r, 8); }

const uint8_t *read_blob(struct reader *r, uint32_t *length) {
    *length = read_u32(r);
    const uint8_t *at = take(r, *length);
    if (!at) *length = 0;
    return at;
}

char *read_string(struct reader *r) {
    uint32_t length;
    const uint8_t *at = read_blob(r, &length);
    if (!at || memchr(at, 0, length)) {
        r->bad = true;
        return NULL;
    }
    char *copy = malloc((size_t)length + 1);
    if (!copy) {
        r->bad = true;
        return NULL;
    }
    memcpy(copy, at, length);
    copy[length] = 0;
    return copy;
}

bool read_done(const struct reader *r) { return !r->bad && r->left == 0; }

bool buffer_reserve(struct buffer *b, size_t more) {
    if (b->failed) return false;
    if (b->capacity - b->length >= more) return true;
    size_t capacity = b->capacity ? b->capacity : 512;
    while (capacity - b->length < more) capacity *= 2;
    uint8_t *data = realloc(b->data, capacity);
    if (!data) {
        b->failed = true;
        return false;
    }
    b->data = data;
    b->capacity = capacity;
    return true;
}

void buffer_free(struct buffer *b) {
    free(b->data);
    *b = (struct buffer){0};
}

void put_bytes(struct buffer *b, const void *bytes, size_t length) {
    if (!length || !buffer_reserve(b, length)) return;
    memcpy(b->data + b->length, bytes, length);
    b->length += length;
}

static void put_little(struct buffer *b, uint64_t value, size_t bytes) {
    uint8_t out[8];
    for (size_t i = 0; i < bytes; i++) out[i] = (uint8_t)(value >> (8 * i));
    put_bytes(b, out, bytes);
}

void put_u8(struct buffer *b, uint8_t value) { put_little(b, value, 1); }
void put_u16(struct buffer *b, uint16_t value) { put_little(b, value, 2); }
void put_u32(struct buffer *b, uint32_t value) { put_little(b, value, 4); }
void put_u64(struct buffer *b, uint64_t value) { put_little(b, value, 8); }

void put_string(struct buffer *b, const char *text) {
    size_t length = strlen(text);
    put_u32(b, (uint32_t)length);
    put_bytes(b, text, length);
}

size_t frame_begin(struct buffer *b, uint8_t type, uint32_t id) {
    size_t start = b->length;
    put_u32(b, 0);
    put_u8(b, type);
    put_u8(b, 0);
    put_u16(b, 0);
    put_u32(b, id);
    return start;
}

void frame_end(struct buffer *b, size_t start) {
    if (b->failed) return;
    uint32_t length = (uint32_t)(b->length - start - HEADER_BYTES);
    for (int i = 0; i < 4; i++) b->data[start + (size_t)i] = (uint8_t)(length >> (8 * i));
}
