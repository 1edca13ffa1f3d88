/* queue.h - messages of any length, many producers and many consumers, in one segment.
 *
 * Promise: a message that was put is got once, by one consumer, in the order of the puts; whoever dies, and at
 * whichever step, no message is lost, doubled or seen half, but the one a dead consumer had taken already. Nobody waits
 * for a dead process longer than it takes to notice (some 20 ms). No access leaves the mapping, whatever the shared
 * words hold.
 *
 * How. A ring of 64-byte lines with one cursor per side, as in ring.h; the producers take turns under one mutex, the
 * consumers under another, so at any time there is one of each and the proof R1, R2 of ring.h holds between them. A
 * message starts on a line of its own with a record that says how long it is. What is too long for the ring is
 * *spilled*: written to the segment's file behind the mapped part, with a record of one line in the ring that says
 * where; the consumer reads it from there and gives the pages back. File and pages go with the segment, so a spilled
 * message needs no name and leaves nothing behind.
 *
 * Proof sketch of what a death leaves. Everything a side publishes hangs on one store, that of its cursor.
 *   Q1  Before it the dead holder has changed only free lines, free file pages and next_*: the message does not exist.
 *   Q2  next_* were written before the cursor (release), so whoever inherits the mutex and finds cursor == next_cursor
 *       can finish what comes after it: the count, the spilled bytes (shmq_queue_mend), as often as needed.
 *   Q3  A waiter sleeps on the cell of its side while it holds the side's mutex, so a cell has one waiter (wait.h).
 *       If it dies there, its successor at the mutex looks at the queue before it sleeps.
 *
 * A bounded queue has at least as many lines as items, and a message goes into the ring only if one line per item that
 * may still come stays free; otherwise it is spilled. So `maxsize` alone decides when it is full.
 */
#ifndef SHMQ_QUEUE_H
#define SHMQ_QUEUE_H

#include "shmq/native/mutex.h"

#define SHMQ_QUEUE_MAGIC UINT64_C(0x31657565756d6873) /* "shmueue1" */
#define SHMQ_QUEUE_LINE 64
#define SHMQ_QUEUE_PAGE 4096 /* spilled messages start on pages of their own, so that they can be given back */

typedef struct {
    /* line 0: by whoever holds the mutex */
    alignas(SHMQ_LINE) shmq_mutex lock;
    _Atomic uint64_t next_cursor; /* what the holder is about to publish (Q2) */
    _Atomic uint64_t next_items;
    _Atomic uint64_t next_spill;
    _Atomic uint64_t seen; /* the other side's cursor and count when last looked at: old values only hide room (R3) */
    _Atomic uint64_t seen_items;
    /* line 1: by the holder, read by the other side */
    alignas(SHMQ_LINE) _Atomic uint64_t cursor; /* lines, free-running */
    _Atomic uint64_t items;                     /* messages since the queue was made */
    _Atomic uint64_t spill;                     /* bytes of spilled messages, in whole pages */
    _Atomic uint64_t refused;                   /* tries that found no room, or no message */
} shmq_queue_side;

typedef struct {
    /* line 0: written once by the creator */
    alignas(SHMQ_LINE) uint64_t magic;
    uint64_t lines;   /* a power of two */
    uint64_t maxsize; /* items, 0: no bound */
    shmq_queue_side put, get;
    shmq_cell consumer_cell, producer_cell;
} shmq_queue;

static_assert(sizeof(shmq_queue) == 7 * SHMQ_LINE, "header is seven lines");

/* The first bytes of a message's first line. */
typedef struct {
    uint32_t kind;   /* SHMQ_QUEUE_PLAIN or SHMQ_QUEUE_PARTS, and SHMQ_QUEUE_SPILLED */
    uint32_t unused;
    uint64_t length; /* bytes of the message */
    uint64_t at;     /* of a spilled message: where, from the spill area's start */
} shmq_queue_record;

#define SHMQ_QUEUE_PLAIN 1u
#define SHMQ_QUEUE_PARTS 2u
#define SHMQ_QUEUE_SPILLED 4u
#define SHMQ_QUEUE_HEAD 16 /* bytes of the record of a message in the ring: it has no `at` */

/* A process's private view. */
typedef struct {
    shmq_queue *queue;
    uint8_t *data;
    uint64_t lines;
    uint64_t maxsize;
    uint64_t spill_at; /* file offset of the spill area */
} shmq_queue_handle;

/* Bytes needed, or 0 for an impossible geometry. */
static inline uint64_t shmq_queue_bytes(uint64_t lines)
{
    if (!shmq_is_pow2(lines) || lines > UINT64_C(1) << 34)
        return 0;
    return sizeof(shmq_queue) + lines * SHMQ_QUEUE_LINE;
}

/* Lay out an empty queue in zeroed memory. */
static inline int shmq_queue_init(void *at, uint64_t lines, uint64_t maxsize)
{
    if (!shmq_queue_bytes(lines) || maxsize > lines || (uintptr_t)at % SHMQ_LINE)
        return SHMQ_INVALID;
    shmq_queue *q = at;
    q->lines = lines;
    q->maxsize = maxsize;
    q->magic = SHMQ_QUEUE_MAGIC;
    return SHMQ_OK;
}

/* space: mapped bytes from `at`; file_size: where the mapping ends in the file. */
static inline int shmq_queue_bind(shmq_queue_handle *h, void *at, uint64_t space, uint64_t file_size)
{
    const shmq_queue *q = at;
    if (space < sizeof *q || (uintptr_t)at % SHMQ_LINE || q->magic != SHMQ_QUEUE_MAGIC)
        return SHMQ_CORRUPT;
    *h = (shmq_queue_handle){.queue = at, .data = (uint8_t *)at + sizeof *q, .lines = q->lines, .maxsize = q->maxsize};
    uint64_t need = shmq_queue_bytes(h->lines);
    if (!need || need > space || h->maxsize > h->lines)
        return SHMQ_CORRUPT;
    h->spill_at = (file_size + SHMQ_QUEUE_PAGE - 1) / SHMQ_QUEUE_PAGE * SHMQ_QUEUE_PAGE;
    return SHMQ_OK;
}

/* ---- both sides ---- */

static inline uint64_t shmq_queue_load(const _Atomic uint64_t *word)
{
    return atomic_load_explicit((_Atomic uint64_t *)word, memory_order_relaxed);
}

static inline void shmq_queue_store(_Atomic uint64_t *word, uint64_t value)
{
    atomic_store_explicit(word, value, memory_order_relaxed);
}

static inline void shmq_queue_refuse(shmq_queue_side *side)
{
    shmq_queue_store(&side->refused, shmq_queue_load(&side->refused) + 1);
}

/* Between two stores of which a death may leave the first alone: the compiler must not move one across, either. The stores of
 * a dead process are seen by its heirs without further ado, because its last instruction came before they heard of it. */
static inline void shmq_queue_then(void)
{
    atomic_signal_fence(memory_order_seq_cst);
    SHMQ_STEP();
}

/* The one step that makes a message exist, or be gone; the caller holds the side's mutex. */
static inline void shmq_queue_publish(shmq_queue_side *side, uint64_t cursor, uint64_t items, uint64_t spill)
{
    shmq_queue_store(&side->next_cursor, cursor);
    shmq_queue_then();
    shmq_queue_store(&side->next_items, items);
    shmq_queue_then();
    shmq_queue_store(&side->next_spill, spill);
    shmq_queue_then();
    atomic_store_explicit(&side->cursor, cursor, memory_order_release); /* pairs with the other side's acquire; Q2 */
    shmq_queue_then();
    atomic_store_explicit(&side->items, items, memory_order_release);
    shmq_queue_then();
    shmq_queue_store(&side->spill, spill);
    shmq_queue_then();
}

/* Q2: finish what a dead holder had published; the caller has inherited the mutex. */
static inline void shmq_queue_mend(shmq_queue_side *side)
{
    if (atomic_load_explicit(&side->cursor, memory_order_acquire) != shmq_queue_load(&side->next_cursor))
        return;
    shmq_queue_store(&side->items, shmq_queue_load(&side->next_items));
    shmq_queue_store(&side->spill, shmq_queue_load(&side->next_spill));
}

/* Messages in the queue; exact for who holds both mutexes. */
static inline uint64_t shmq_queue_size(const shmq_queue_handle *h)
{
    uint64_t gets = atomic_load_explicit(&h->queue->get.items, memory_order_acquire); /* first: it only grows */
    uint64_t puts = atomic_load_explicit(&h->queue->put.items, memory_order_acquire);
    return (int64_t)(puts - gets) < 0 ? 0 : puts - gets; /* a message is published before it is counted */
}

/* The pages that a spilled message takes, in bytes. */
static inline uint64_t shmq_queue_pages_of(uint64_t length)
{
    return (length + SHMQ_QUEUE_PAGE - 1) / SHMQ_QUEUE_PAGE * SHMQ_QUEUE_PAGE;
}

/* ---- putting: under the mutex of `put` ---- */

static inline uint64_t shmq_queue_lines_of(uint64_t length)
{
    return (SHMQ_QUEUE_HEAD + length + SHMQ_QUEUE_LINE - 1) / SHMQ_QUEUE_LINE;
}

/* A message of more than an eighth of the ring is spilled: it would only make the others wait. */
static inline bool shmq_queue_oversized(const shmq_queue_handle *h, uint64_t length)
{
    return length > h->lines * SHMQ_QUEUE_LINE / 8;
}

/* How a message of `length` bytes would go in with the consumers at cursor `head` after `gets` messages: lines, 0 when
 * it has to wait. *spilled: by way of the file. */
static inline int64_t shmq_queue_fit(const shmq_queue_handle *h, uint64_t length, uint64_t head, uint64_t gets, bool *spilled)
{
    uint64_t used = shmq_queue_load(&h->queue->put.cursor) - head;
    uint64_t items = shmq_queue_load(&h->queue->put.items) - gets;
    *spilled = false;
    if (used > h->lines)
        return SHMQ_CORRUPT;
    uint64_t room = h->lines - used, need = shmq_queue_lines_of(length);
    if (h->maxsize && items >= h->maxsize)
        return 0;
    uint64_t keep = h->maxsize ? h->maxsize - items - 1 : 0;
    *spilled = shmq_queue_oversized(h, length) || (h->maxsize && need + keep > room);
    if (*spilled)
        need = 1;
    return need <= room ? (int64_t)need : 0;
}

/* The same with where the consumers are now; for anybody. */
static inline int64_t shmq_queue_fit_now(const shmq_queue_handle *h, uint64_t length, bool *spilled)
{
    const shmq_queue_side *get = &h->queue->get;
    uint64_t gets = atomic_load_explicit(&get->items, memory_order_acquire); /* before head: see shmq_queue_publish */
    return shmq_queue_fit(h, length, atomic_load_explicit(&get->cursor, memory_order_acquire), gets, spilled); /* R1 */
}

/* The same under the mutex: looks at the consumers' line only when what was last seen there leaves no room. */
static inline int64_t shmq_queue_plan(const shmq_queue_handle *h, uint64_t length, bool *spilled)
{
    shmq_queue_side *put = &h->queue->put;
    const shmq_queue_side *get = &h->queue->get;
    int64_t lines = shmq_queue_fit(h, length, shmq_queue_load(&put->seen), shmq_queue_load(&put->seen_items), spilled);
    if (lines > 0 && !*spilled)
        return lines;
    shmq_queue_store(&put->seen_items, atomic_load_explicit(&get->items, memory_order_acquire));
    shmq_queue_store(&put->seen, atomic_load_explicit(&get->cursor, memory_order_acquire)); /* R1 */
    return shmq_queue_fit(h, length, shmq_queue_load(&put->seen), shmq_queue_load(&put->seen_items), spilled);
}

/* Copy into the ring at a byte position, around its end. */
static inline void shmq_queue_copy_in(const shmq_queue_handle *h, uint64_t position, const void *from, uint64_t n)
{
    uint64_t at = position & (h->lines * SHMQ_QUEUE_LINE - 1), first = h->lines * SHMQ_QUEUE_LINE - at;
    if (first > n)
        first = n;
    memcpy(h->data + at, from, first);
    memcpy(h->data, (const uint8_t *)from + first, n - first);
}

static inline void shmq_queue_copy_out(const shmq_queue_handle *h, uint64_t position, void *to, uint64_t n)
{
    uint64_t at = position & (h->lines * SHMQ_QUEUE_LINE - 1), first = h->lines * SHMQ_QUEUE_LINE - at;
    if (first > n)
        first = n;
    memcpy(to, h->data + at, first);
    memcpy((uint8_t *)to + first, h->data, n - first);
}

/* Publish the message whose record and lines have been filled in. */
static inline void shmq_queue_put_done(const shmq_queue_handle *h, const shmq_queue_record *record, uint64_t lines)
{
    shmq_queue_side *side = &h->queue->put;
    uint64_t spill = shmq_queue_load(&side->spill);
    if (record->kind & SHMQ_QUEUE_SPILLED)
        spill += shmq_queue_pages_of(record->length);
    uint64_t cursor = shmq_queue_load(&side->cursor);
    memcpy(h->data + (cursor & (h->lines - 1)) * SHMQ_QUEUE_LINE, record,
           record->kind & SHMQ_QUEUE_SPILLED ? sizeof *record : SHMQ_QUEUE_HEAD);
    shmq_queue_publish(side, cursor + lines, shmq_queue_load(&side->items) + 1, spill);
}

/* ---- getting: under the mutex of `get` ---- */

/* The oldest message's record and its lines: SHMQ_OK, SHMQ_EMPTY or SHMQ_CORRUPT. */
static inline int shmq_queue_look(const shmq_queue_handle *h, shmq_queue_record *record, uint64_t *lines)
{
    shmq_queue *q = h->queue;
    uint64_t head = shmq_queue_load(&q->get.cursor), used = shmq_queue_load(&q->get.seen) - head;
    if (!used || used > h->lines) {
        shmq_queue_store(&q->get.seen, atomic_load_explicit(&q->put.cursor, memory_order_acquire)); /* R2 */
        used = shmq_queue_load(&q->get.seen) - head;
    }
    if (!used)
        return SHMQ_EMPTY;
    memcpy(record, h->data + (head & (h->lines - 1)) * SHMQ_QUEUE_LINE, sizeof *record);
    if (used > h->lines || record->length > UINT64_C(1) << 62)
        return SHMQ_CORRUPT;
    *lines = record->kind & SHMQ_QUEUE_SPILLED ? 1 : shmq_queue_lines_of(record->length);
    return *lines > used || !(record->kind & (SHMQ_QUEUE_PLAIN | SHMQ_QUEUE_PARTS)) ? SHMQ_CORRUPT : SHMQ_OK;
}

/* Take the oldest message out, after it was copied. */
static inline void shmq_queue_get_done(const shmq_queue_handle *h, const shmq_queue_record *record, uint64_t lines)
{
    shmq_queue_side *side = &h->queue->get;
    uint64_t spill = shmq_queue_load(&side->spill);
    if (record->kind & SHMQ_QUEUE_SPILLED)
        spill = record->at + shmq_queue_pages_of(record->length);
    shmq_queue_publish(side, shmq_queue_load(&side->cursor) + lines, shmq_queue_load(&side->items) + 1, spill);
}

static inline bool shmq_queue_has_message(const shmq_queue_handle *h)
{
    const shmq_queue *q = h->queue;
    return atomic_load_explicit(&q->put.cursor, memory_order_acquire) !=
           atomic_load_explicit(&q->get.cursor, memory_order_acquire);
}

#endif
