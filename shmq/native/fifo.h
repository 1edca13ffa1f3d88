/* fifo.h - a lock-free single-producer single-consumer byte stream with an event flag.
 *
 * Promise: bytes come out in the order they went in, once; reads at an offset do not consume;
 * at most one event is outstanding per direction; no access leaves the data area whatever the
 * peer writes into the shared header (private geometry, masked addresses, clamped counts).
 *
 * Proof sketch. The cursors follow ring.h (F1 = R1, F2 = R2 with bytes for slots). The event flag
 * coalesces notifications: after publishing bytes the writer swaps `event` to 1 and sends one
 * message only if it was 0; the reader swaps it to 0 *before* it loads tail. Both swaps are
 * sequentially consistent read-modify-writes, so in their total order either the reader's clear
 * comes after the writer's set (then its later load of tail sees the bytes, F3) or before it (then
 * the writer saw 0 and sends a new message). No third case: no lost wake-up.
 * `want` is the mirror image for room: a writer that found the fifo full stores how many free
 * bytes it wants, fences and re-checks; the reader, after releasing bytes, fences and looks at
 * `want` (F4). The one of them that swaps it back to 0 does the notifying.
 *
 * Bytes may also be written ahead of the stream, at an offset behind tail (shmq_fifo_write_at), as a TCP receiver must
 * when a segment is missing. They go to their final place, into free room, where the reader does not look (F2: it reads
 * below tail only). A list that is private to the writer says which pieces are there, in order, disjoint and never
 * touching each other nor tail; when the bytes before the first one come, tail moves over both in one release-store.
 * A writer that dies takes the list along: what was never visible is lost, as if it had not been written.
 *
 * Ends are private structs, one per process and direction, not thread safe.
 */
#ifndef SHMQ_FIFO_H
#define SHMQ_FIFO_H

#include "shmq/native/common.h"

typedef struct {
    /* line 0: by the writer; event also by the reader, at the moment it reads tail anyway */
    alignas(SHMQ_LINE) _Atomic uint64_t tail; /* bytes ever written */
    _Atomic uint32_t event;                   /* 1: a message about new bytes is on its way */
    /* line 1: by the reader; want also by the writer, only when it ran out of room */
    alignas(SHMQ_LINE) _Atomic uint64_t head; /* bytes ever consumed */
    _Atomic uint32_t want;                    /* writer waits for this many free bytes, 0: it does not */
} shmq_fifo;

static_assert(offsetof(shmq_fifo, head) == SHMQ_LINE, "cursors on lines of their own");
static_assert(sizeof(shmq_fifo) == 2 * SHMQ_LINE, "header is two lines");

/* One end, writer or reader. pos is the own cursor, peer the cached remote one. */
typedef struct {
    shmq_fifo *fifo;
    uint8_t *data;
    uint64_t mask; /* size - 1; size is a power of two */
    uint64_t pos;
    uint64_t peer;
} shmq_fifo_end;

static inline void shmq_fifo_reset(shmq_fifo *f)
{
    atomic_store_explicit(&f->tail, 0, memory_order_relaxed);
    atomic_store_explicit(&f->event, 0, memory_order_relaxed);
    atomic_store_explicit(&f->want, 0, memory_order_relaxed);
    atomic_store_explicit(&f->head, 0, memory_order_release);
}

/* Bind an end to an empty fifo of `size` bytes (power of two). */
static inline void shmq_fifo_bind(shmq_fifo_end *e, shmq_fifo *f, void *data, uint64_t size)
{
    *e = (shmq_fifo_end){.fifo = f, .data = data, .mask = size - 1};
}

/* Take over where another process (a parent, a dead worker) stopped. */
static inline void shmq_fifo_resume(shmq_fifo_end *e, bool writer)
{
    uint64_t tail = atomic_load_explicit(&e->fifo->tail, memory_order_acquire);
    uint64_t head = atomic_load_explicit(&e->fifo->head, memory_order_acquire);
    e->pos = writer ? tail : head;
    e->peer = writer ? head : tail;
}

/* ---- writer ---- */

/* Free bytes, at least `want` of them if there are. A head that no correct reader writes counts as full. */
static inline uint64_t shmq_fifo_room(shmq_fifo_end *w, uint64_t want)
{
    uint64_t size = w->mask + 1, used = w->pos - w->peer;
    if (used > size || size - used < want) {
        w->peer = atomic_load_explicit(&w->fifo->head, memory_order_acquire); /* F1: reader's release of head */
        used = w->pos - w->peer;
        if (used > size)
            return 0;
    }
    return size - used;
}

/* Copy n bytes to stream position pos on; they must fit into free room. Nothing is published. */
static inline void shmq_fifo_put(shmq_fifo_end *w, uint64_t pos, const void *src, uint64_t n)
{
    uint64_t at = pos & w->mask, first = w->mask + 1 - at;
    if (first > n)
        first = n;
    memcpy(w->data + at, src, first);
    SHMQ_STEP();
    if (n > first)
        memcpy(w->data, (const uint8_t *)src + first, n - first);
}

/* Make the bytes up to stream position pos visible. */
static inline void shmq_fifo_publish(shmq_fifo_end *w, uint64_t pos)
{
    w->pos = pos;
    SHMQ_STEP();
    atomic_store_explicit(&w->fifo->tail, pos, memory_order_release); /* F2: reader's acquire of tail */
    SHMQ_STEP();
}

/* Copy in up to n bytes; how many went in. The bytes are published, no event is set. Not while pieces are held ahead:
 * then shmq_fifo_write_at with offset 0. */
static inline uint64_t shmq_fifo_write(shmq_fifo_end *w, const void *src, uint64_t n)
{
    uint64_t room = shmq_fifo_room(w, n);
    if (n > room)
        n = room;
    if (!n)
        return 0;
    shmq_fifo_put(w, w->pos, src, n);
    shmq_fifo_publish(w, w->pos + n);
    return n;
}

#define SHMQ_FIFO_PIECES 32u /* a writer holds at most so many; one more is refused, to be sent again */

/* Bytes that were written ahead of tail, by stream position. Zeroed memory is an empty list. */
typedef struct {
    uint32_t count;
    uint32_t reserved;
    struct {
        uint64_t begin, end;
    } piece[SHMQ_FIFO_PIECES];
} shmq_fifo_ahead;

static inline uint64_t shmq_fifo_held(const shmq_fifo_ahead *ahead)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < ahead->count; i++)
        bytes += ahead->piece[i].end - ahead->piece[i].begin;
    return bytes;
}

/* Replace the pieces first..last-1 by begin..end, or by nothing when that is empty. There must be space for one more
 * when first = last. */
static inline void shmq_fifo_splice(shmq_fifo_ahead *ahead, uint32_t first, uint32_t last, uint64_t begin, uint64_t end)
{
    uint32_t keep = end != begin;
    memmove(&ahead->piece[first + keep], &ahead->piece[last], (ahead->count - last) * sizeof ahead->piece[0]);
    ahead->count = ahead->count - (last - first) + keep;
    if (keep) {
        ahead->piece[first].begin = begin;
        ahead->piece[first].end = end;
    }
}

/* Copy in up to n bytes that belong `offset` bytes behind tail; how many of them, from the first on, were kept. They
 * are published with all that follows without a gap when offset is 0, else held. Bytes that are held already may be
 * written again. SHMQ_FULL, and nothing kept, when there are too many separate pieces. */
static inline int64_t shmq_fifo_write_at(shmq_fifo_end *w, shmq_fifo_ahead *ahead, uint64_t offset, const void *src,
                                         uint64_t n)
{
    uint64_t room = shmq_fifo_room(w, n > UINT64_MAX - offset ? UINT64_MAX : offset + n);
    if (offset >= room)
        return 0;
    if (n > room - offset)
        n = room - offset;
    if (!n)
        return 0;
    /* positions relative to tail, so that the comparisons hold when the free-running numbers wrap */
    uint64_t begin = offset, end = offset + n, base = w->pos;
    uint32_t first = 0;
    while (first < ahead->count && ahead->piece[first].end - base < begin)
        first++;
    uint32_t last = first;
    for (; last < ahead->count && ahead->piece[last].begin - base <= end; last++) {
        if (ahead->piece[last].begin - base < begin)
            begin = ahead->piece[last].begin - base;
        if (ahead->piece[last].end - base > end)
            end = ahead->piece[last].end - base;
    }
    if (begin && first == last && ahead->count == SHMQ_FIFO_PIECES)
        return SHMQ_FULL;
    shmq_fifo_put(w, base + offset, src, n);
    if (begin) {
        shmq_fifo_splice(ahead, first, last, base + begin, base + end);
    } else {
        shmq_fifo_splice(ahead, first, last, base, base);
        shmq_fifo_publish(w, base + end);
    }
    return (int64_t)n;
}

/* True exactly when the caller must now send a message about new bytes. */
static inline bool shmq_fifo_set_event(shmq_fifo_end *w)
{
    return atomic_exchange_explicit(&w->fifo->event, 1, memory_order_seq_cst) == 0; /* F3: reader's clear */
}

/* Ask to be told when `want` bytes are free (at least 1, at most the whole fifo or 4 GiB - 1). False, and
 * nothing asked, when they are free already. */
static inline bool shmq_fifo_want(shmq_fifo_end *w, uint64_t want)
{
    if (want > w->mask + 1)
        want = w->mask + 1;
    if (want > UINT32_MAX)
        want = UINT32_MAX;
    want += !want; /* 0 would mean that nobody waits */
    shmq_store_then_fence(&w->fifo->want, (uint32_t)want); /* F4: fence in shmq_fifo_wanted */
    w->peer = atomic_load_explicit(&w->fifo->head, memory_order_acquire);
    if (w->pos - w->peer > w->mask + 1 || w->mask + 1 - (w->pos - w->peer) < want)
        return true;
    /* room appeared meanwhile; if the reader took the wish first, its message is on the way */
    return atomic_exchange_explicit(&w->fifo->want, 0, memory_order_relaxed) == 0;
}

/* ---- reader ---- */

/* Bytes that can be read, clamped to the size whatever the peer claims. */
static inline uint64_t shmq_fifo_avail(shmq_fifo_end *r, uint64_t want)
{
    uint64_t used = r->peer - r->pos;
    if (used > r->mask + 1 || used < want) {
        r->peer = atomic_load_explicit(&r->fifo->tail, memory_order_acquire); /* F2: writer's release of tail */
        used = r->peer - r->pos;
    }
    return used > r->mask + 1 ? 0 : used;
}

/* Must be followed by shmq_fifo_avail with want = UINT64_MAX, which looks at tail again (F3). */
static inline void shmq_fifo_clear_event(shmq_fifo_end *r)
{
    /* Seen 0: the writer's next set will find 0, too, and send its message; no need to take the line.
     * Otherwise acquire half: the bytes written before the set that this clears (F3). */
    if (atomic_load_explicit(&r->fifo->event, memory_order_seq_cst))
        atomic_exchange_explicit(&r->fifo->event, 0, memory_order_seq_cst);
}

/* Contiguous readable bytes at offset off; *ptr is set to the first. 0 when off is beyond the end. */
static inline uint64_t shmq_fifo_span(const shmq_fifo_end *r, uint64_t off, uint64_t avail, const uint8_t **ptr)
{
    if (off >= avail)
        return 0;
    uint64_t at = (r->pos + off) & r->mask, n = r->mask + 1 - at;
    *ptr = r->data + at;
    return n < avail - off ? n : avail - off;
}

/* Copy n bytes from offset off without consuming; how many there were. */
static inline uint64_t shmq_fifo_peek(shmq_fifo_end *r, uint64_t off, void *dst, uint64_t n)
{
    uint64_t avail = shmq_fifo_avail(r, off + n), done = 0;
    const uint8_t *from;
    while (done < n) {
        uint64_t k = shmq_fifo_span(r, off + done, avail, &from);
        if (!k)
            break;
        if (k > n - done)
            k = n - done;
        memcpy((uint8_t *)dst + done, from, k);
        done += k;
    }
    return done;
}

/* Consume n bytes; n must not exceed what avail returned. */
static inline void shmq_fifo_skip(shmq_fifo_end *r, uint64_t n)
{
    r->pos += n;
    SHMQ_STEP();
    atomic_store_explicit(&r->fifo->head, r->pos, memory_order_release); /* F1: writer's acquire of head */
    SHMQ_STEP();
}

static inline uint64_t shmq_fifo_read(shmq_fifo_end *r, void *dst, uint64_t n)
{
    n = shmq_fifo_peek(r, 0, dst, n);
    if (n)
        shmq_fifo_skip(r, n);
    return n;
}

/* After a skip or read: true exactly when the caller must tell the writer that there is room. */
static inline bool shmq_fifo_wanted(shmq_fifo_end *r)
{
    uint32_t want = shmq_fence_then_load(&r->fifo->want); /* F4: fence in shmq_fifo_want */
    if (__builtin_expect(!want, 1))
        return false;
    uint64_t size = r->mask + 1;
    uint64_t tail = atomic_load_explicit(&r->fifo->tail, memory_order_relaxed);
    uint64_t used = tail - r->pos;
    if (used <= size && size - used < want)
        return false;
    return atomic_exchange_explicit(&r->fifo->want, 0, memory_order_relaxed) != 0;
}

#endif
