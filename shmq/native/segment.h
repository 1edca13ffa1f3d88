/* segment.h - the first line of every shared segment: what it is, whose it is, how large.
 *
 * Promise: an attach can tell a segment of this library, this version and this user from anything
 * else before it believes one more byte of it. The header is written once, `magic` last with
 * release, so a segment that is still being built is not recognised as one.
 *
 * owner_* let `gc` decide whether the creator still lives. Doubt: a creator in another pid namespace
 * cannot be judged; pidns (inode of /proc/self/ns/pid) tells, and such segments are left alone.
 */
#ifndef SHMQ_SEGMENT_H
#define SHMQ_SEGMENT_H

#include "shmq/native/common.h"

#include <sys/stat.h>

#define SHMQ_SEGMENT_MAGIC UINT64_C(0x676573716d687301) /* "\1shmqseg" */
#define SHMQ_ABI_VERSION 1u

typedef struct {
    alignas(SHMQ_LINE) _Atomic uint64_t magic;
    uint32_t version;
    uint32_t owner_uid;
    uint64_t size;        /* bytes of the whole segment */
    uint64_t owner_token; /* common.h */
    uint64_t pidns;       /* 0: unknown */
    char kind[24];        /* "ring", "rwlock", "stack" ..., NUL padded */
    char abi[32];         /* build or layout tag of the payload, NUL padded */
} shmq_segment;

static_assert(sizeof(shmq_segment) == SHMQ_LINE, "one line, payload follows");

static inline uint64_t shmq_pidns(void)
{
    struct stat st;
    return stat("/proc/self/ns/pid", &st) == 0 ? (uint64_t)st.st_ino : 0;
}

static inline int shmq_segment_init(void *at, uint64_t size, const char *kind, const char *abi)
{
    shmq_segment *s = at;
    if (size < sizeof *s || strlen(kind) >= sizeof s->kind || strlen(abi) >= sizeof s->abi)
        return SHMQ_INVALID;
    s->version = SHMQ_ABI_VERSION;
    s->owner_uid = (uint32_t)geteuid();
    s->size = size;
    s->owner_token = shmq_self_token();
    s->pidns = shmq_pidns();
    strcpy(s->kind, kind);
    strcpy(s->abi, abi);
    atomic_store_explicit(&s->magic, SHMQ_SEGMENT_MAGIC, memory_order_release); /* pairs with shmq_segment_check */
    return SHMQ_OK;
}

/* NULL when the segment of `size` mapped bytes is what the caller expects, else why not. */
static inline const char *shmq_segment_check(const void *at, uint64_t size, const char *kind, const char *abi)
{
    const shmq_segment *s = at;
    if (size < sizeof *s || atomic_load_explicit(&s->magic, memory_order_acquire) != SHMQ_SEGMENT_MAGIC)
        return "not a shmq segment";
    if (s->version != SHMQ_ABI_VERSION)
        return "made by another version of shmq";
    if (s->owner_uid != (uint32_t)geteuid())
        return "owned by another user";
    if (s->size != size)
        return "truncated or resized";
    if (strncmp(s->kind, kind, sizeof s->kind) != 0)
        return "a segment of another kind";
    if (strncmp(s->abi, abi, sizeof s->abi) != 0)
        return "made by another build";
    return NULL;
}

#endif
