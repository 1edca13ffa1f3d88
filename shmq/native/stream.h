/* stream.h - a byte fifo with everything around it that two processes need: geometry, roles, cells, counters.
 *
 * Promise: as fifo.h for the bytes, as ring.h for the roles, as wait.h for sleeping and waking: after publishing bytes
 * the writer wakes the reader's cell, after releasing some the reader wakes the writer's.
 *
 * The stack's own fifos do without it: their roles and wake-ups go through the workers' rings.
 */
#ifndef SHMQ_STREAM_H
#define SHMQ_STREAM_H

#include "shmq/native/fifo.h"
#include "shmq/native/wait.h"

#define SHMQ_STREAM_MAGIC UINT64_C(0x316d727473716d68) /* "hmqstrm1" */

typedef struct {
    /* line 0: written once by the creator, then read only; the roles change rarely */
    alignas(SHMQ_LINE) uint64_t magic;
    uint64_t capacity; /* bytes, a power of two */
    _Atomic uint64_t writer; /* token of the role's holder, 0 = free */
    _Atomic uint64_t reader;
    uint32_t flags; /* SHMQ_RING_EVENTFD */
    uint32_t reserved;
    /* line 1: counter of the writer */
    alignas(SHMQ_LINE) _Atomic uint64_t full_hits;
    /* line 2: counters of the reader */
    alignas(SHMQ_LINE) _Atomic uint64_t empty_hits;
    _Atomic uint64_t high_water; /* most bytes seen in use, by the reader */
    /* where each end sleeps */
    shmq_cell reader_cell;
    shmq_cell writer_cell;
    shmq_fifo fifo; /* the bytes follow it */
} shmq_stream;

static_assert(offsetof(shmq_stream, reader_cell) == 3 * SHMQ_LINE, "counters of different writers apart");
static_assert(sizeof(shmq_stream) == 7 * SHMQ_LINE, "header is seven lines");

/* Bytes needed for a stream, or 0 when the capacity is no power of two or out of range. */
static inline uint64_t shmq_stream_bytes(uint64_t capacity)
{
    return shmq_is_pow2(capacity) && capacity <= UINT64_C(1) << 40 ? sizeof(shmq_stream) + capacity : 0;
}

/* Lay out an empty stream at `at` (SHMQ_LINE aligned, zeroed memory of shmq_stream_bytes). */
static inline int shmq_stream_init(void *at, uint64_t capacity, uint32_t flags)
{
    shmq_stream *s = at;
    if (!shmq_stream_bytes(capacity) || (uintptr_t)at % SHMQ_LINE)
        return SHMQ_INVALID;
    memset(s, 0, sizeof *s);
    s->capacity = capacity;
    s->flags = flags;
    s->magic = SHMQ_STREAM_MAGIC;
    return SHMQ_OK;
}

static inline bool shmq_stream_valid(const void *at, uint64_t space)
{
    const shmq_stream *s = at;
    if (space < sizeof *s || (uintptr_t)at % SHMQ_LINE || s->magic != SHMQ_STREAM_MAGIC)
        return false;
    uint64_t need = shmq_stream_bytes(s->capacity);
    return need && need <= space;
}

/* Bind an end, going on where the last holder of its role stopped. */
static inline int shmq_stream_bind(shmq_fifo_end *e, void *at, uint64_t space, bool writer)
{
    shmq_stream *s = at;
    if (!shmq_stream_valid(at, space))
        return SHMQ_CORRUPT;
    shmq_fifo_bind(e, &s->fifo, s + 1, s->capacity);
    uint64_t need = shmq_stream_bytes(e->mask + 1);
    if (!need || need > space)
        return SHMQ_CORRUPT; /* changed between the check and the copy */
    shmq_fifo_resume(e, writer);
    return (writer ? e->pos - e->peer : e->peer - e->pos) > e->mask + 1 ? SHMQ_CORRUPT : SHMQ_OK;
}

static inline void shmq_stream_count(_Atomic uint64_t *counter)
{
    atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + 1, memory_order_relaxed);
}

#endif
