/* channel.h - a lock-free single-producer single-consumer channel of messages of any length.
 *
 * Promise: every committed message is received once, whole, in order, and each lies in one piece, so that both ends
 * can work in place; any message of up to half the capacity goes through. No call blocks or makes a syscall but the
 * wake-ups of ring.h. No access leaves the buffer, whatever the peer writes and whenever it does.
 *
 * Layout. The bytes are a ring.h ring of one-byte slots; cursors are byte counts and multiples of 8. A message is one
 * *record*: a header word (low half: length of the payload; high half: kind) and the payload, padded to 8 bytes. Kind
 * MSG: the payload follows the header. Kind SKIP: what is left before the end of the buffer is skipped, the payload
 * lies at the buffer's start.
 *
 * Proof sketch. R1 to R4 of ring.h hold for the bytes. On top of them:
 *   C1  Whole: header and payload are written into free bytes, then one release-store of tail publishes all of them.
 *       A producer that dies before it leaves nothing; its successor starts at the same tail.
 *   C2  Always room: a MSG record takes 8 + P bytes (P: padded length, at most capacity/2, which is a multiple of 8).
 *       A record becomes SKIP only if the bytes behind its header are fewer than P; all being multiples of 8, header
 *       and skipped bytes are at most P, the record at most 2 P <= capacity. An empty channel takes any message.
 *   C3  Headers do not straddle the end: every record is a multiple of 8 long, and so is every cursor (checked when an
 *       end is bound).
 *   C4  Distrust: the consumer loads a header once, as one word, and goes on with its copy. The length may be at most
 *       capacity/2, a MSG payload must end before the buffer does, and the record must end before the tail that was
 *       checked by ring.h: what passes lies inside the buffer, whatever happens to the header afterwards.
 *       What fails is SHMQ_CORRUPT, and the consumer forgets the tail it had seen, so that it looks again.
 *
 * Doubt: the counters of messages are statistics. They are not updated together with the cursors, so each death of an
 * end can leave them off by one.
 */
#ifndef SHMQ_CHANNEL_H
#define SHMQ_CHANNEL_H

#include "shmq/native/ring.h"

enum { SHMQ_MESSAGE_MSG = 0x4d, SHMQ_MESSAGE_SKIP = 0x53 }; /* not 0: fresh memory holds no record */

#define SHMQ_MESSAGE_HEADER 8u
#define SHMQ_CHANNEL_MIN UINT64_C(16)         /* bytes; holds a message of 8 */
#define SHMQ_CHANNEL_MAX (UINT64_C(1) << 32)  /* half of it is the longest length a header can tell */

typedef struct {
    /* line 0: by the producer */
    alignas(SHMQ_LINE) _Atomic uint64_t pushed; /* messages */
    /* line 1: by the consumer */
    alignas(SHMQ_LINE) _Atomic uint64_t popped; /* messages */
    shmq_ring ring; /* the bytes follow it */
} shmq_channel;

static_assert(offsetof(shmq_channel, popped) == SHMQ_LINE, "counters of different writers apart");
static_assert(offsetof(shmq_channel, ring) == 2 * SHMQ_LINE, "the ring begins a line");
static_assert(sizeof(shmq_channel) == 2 * SHMQ_LINE + sizeof(shmq_ring), "and ends the header");

/* Where a message lies: private copies of what was checked. */
typedef struct {
    uint8_t *payload;
    uint64_t length; /* payload bytes */
    uint64_t span;   /* bytes of the ring it takes: header, skipped bytes, padded payload */
    uint32_t kind;
} shmq_message;

/* The channel around a ring that an end is bound to. */
static inline shmq_channel *shmq_channel_of(shmq_ring *ring)
{
    return (shmq_channel *)((uint8_t *)ring - offsetof(shmq_channel, ring));
}

/* Bytes needed for a channel, or 0 when the capacity is no power of two or out of range. */
static inline uint64_t shmq_channel_bytes(uint64_t capacity)
{
    if (capacity < SHMQ_CHANNEL_MIN || capacity > SHMQ_CHANNEL_MAX || !shmq_is_pow2(capacity))
        return 0;
    return offsetof(shmq_channel, ring) + shmq_ring_bytes(capacity, 1);
}

/* Lay out an empty channel at `at` (SHMQ_LINE aligned, zeroed memory of shmq_channel_bytes). */
static inline int shmq_channel_init(void *at, uint64_t capacity)
{
    shmq_channel *channel = at;
    if (!shmq_channel_bytes(capacity) || (uintptr_t)at % SHMQ_LINE)
        return SHMQ_INVALID;
    atomic_store_explicit(&channel->pushed, 0, memory_order_relaxed);
    atomic_store_explicit(&channel->popped, 0, memory_order_relaxed);
    return shmq_ring_init(&channel->ring, capacity, 1);
}

static inline bool shmq_channel_valid(const void *at, uint64_t space)
{
    const shmq_channel *channel = at;
    if (space < sizeof *channel || (uintptr_t)at % SHMQ_LINE)
        return false;
    return shmq_ring_valid(&channel->ring, space - offsetof(shmq_channel, ring)) && channel->ring.slot_size == 1 &&
           shmq_channel_bytes(channel->ring.capacity);
}

/* Bind a handle without touching the role words, as shmq_producer_bind. */
static inline int shmq_channel_producer_bind(shmq_producer *p, void *at, uint64_t space)
{
    if (!shmq_channel_valid(at, space))
        return SHMQ_CORRUPT;
    int rc = shmq_producer_bind(p, &((shmq_channel *)at)->ring, space - offsetof(shmq_channel, ring));
    if (rc != SHMQ_OK)
        return rc;
    bool sane = p->slot_size == 1 && p->mask >= SHMQ_CHANNEL_MIN - 1 && p->mask < SHMQ_CHANNEL_MAX && p->tail % 8 == 0;
    return sane ? SHMQ_OK : SHMQ_CORRUPT; /* C3; the geometry may have changed since it was checked */
}

static inline int shmq_channel_consumer_bind(shmq_consumer *c, void *at, uint64_t space)
{
    if (!shmq_channel_valid(at, space))
        return SHMQ_CORRUPT;
    int rc = shmq_consumer_bind(c, &((shmq_channel *)at)->ring, space - offsetof(shmq_channel, ring));
    if (rc != SHMQ_OK)
        return rc;
    bool sane = c->slot_size == 1 && c->mask >= SHMQ_CHANNEL_MIN - 1 && c->mask < SHMQ_CHANNEL_MAX && c->head % 8 == 0;
    return sane ? SHMQ_OK : SHMQ_CORRUPT; /* C3 */
}

/* Bytes of the longest message of a channel whose positions are masked with `mask`. */
static inline uint64_t shmq_channel_limit(uint64_t mask)
{
    return (mask + 1) / 2;
}

/* Lay a record of this kind and length (<= limit) at ring position pos. */
static inline void shmq_message_lay(shmq_message *m, uint8_t *buffer, uint64_t mask, uint64_t pos, uint32_t kind,
                                    uint64_t length)
{
    uint64_t at = pos & mask, padded = (length + 7) & ~UINT64_C(7);
    bool skip = kind == SHMQ_MESSAGE_SKIP;
    m->payload = skip ? buffer : buffer + at + SHMQ_MESSAGE_HEADER;
    m->span = (skip ? mask + 1 - at : SHMQ_MESSAGE_HEADER) + padded;
    m->length = length;
    m->kind = kind;
}

/* True when a MSG payload of this length ends before the buffer does. */
static inline bool shmq_message_fits_straight(uint64_t mask, uint64_t pos, uint64_t length)
{
    return length <= mask + 1 - (pos & mask) - SHMQ_MESSAGE_HEADER;
}

/* ---- producer ---- */

/* Find room for a message of `length` bytes `ahead` bytes behind the last published one, and describe it in *m.
 * SHMQ_OK, SHMQ_FULL (m->span is set: what to wait for, with ahead = 0), SHMQ_INVALID (too long) or SHMQ_CORRUPT. */
static inline int shmq_channel_reserve(shmq_producer *p, uint64_t ahead, uint64_t length, shmq_message *m)
{
    if (length > shmq_channel_limit(p->mask))
        return SHMQ_INVALID;
    uint64_t pos = p->tail + ahead;
    bool straight = shmq_message_fits_straight(p->mask, pos, length);
    shmq_message_lay(m, p->slots, p->mask, pos, straight ? SHMQ_MESSAGE_MSG : SHMQ_MESSAGE_SKIP, length);
    int64_t room = shmq_producer_room(p, ahead + m->span);
    if (room < 0)
        return SHMQ_CORRUPT;
    return (uint64_t)room < ahead + m->span ? SHMQ_FULL : SHMQ_OK;
}

/* Write the header of a reserved message whose first `length` bytes are filled in; length <= m->length. It becomes
 * visible with shmq_channel_publish. Returns the span. */
static inline uint64_t shmq_channel_seal(shmq_producer *p, uint64_t ahead, const shmq_message *m, uint64_t length)
{
    shmq_message sealed;
    uint64_t pos = p->tail + ahead, header = (uint64_t)m->kind << 32 | length;
    shmq_message_lay(&sealed, p->slots, p->mask, pos, m->kind, length);
    SHMQ_STEP();
    memcpy(p->slots + (pos & p->mask), &header, sizeof header);
    SHMQ_STEP();
    return sealed.span;
}

/* Publish sealed messages that take `span` bytes together. */
static inline void shmq_channel_publish(shmq_producer *p, uint64_t span, uint64_t messages)
{
    _Atomic uint64_t *pushed = &shmq_channel_of(p->ring)->pushed;
    uint64_t count = atomic_load_explicit(pushed, memory_order_relaxed);
    atomic_store_explicit(pushed, count + messages, memory_order_relaxed);
    SHMQ_STEP();
    shmq_producer_publish(p, span); /* C1 */
    SHMQ_STEP();
}

/* Copy one message in. SHMQ_OK, SHMQ_FULL, SHMQ_INVALID or SHMQ_CORRUPT. */
static inline int shmq_channel_push(shmq_producer *p, const void *data, uint64_t length)
{
    shmq_message m;
    int rc = shmq_channel_reserve(p, 0, length, &m);
    if (rc != SHMQ_OK)
        return rc;
    SHMQ_STEP();
    memcpy(m.payload, data, length);
    shmq_channel_publish(p, shmq_channel_seal(p, 0, &m, length), 1);
    return SHMQ_OK;
}

/* ---- consumer ---- */

/* Describe the first message that was not handed out. SHMQ_OK, SHMQ_EMPTY or SHMQ_CORRUPT. */
static inline int shmq_channel_look(shmq_consumer *c, shmq_message *m)
{
    int64_t ready = shmq_consumer_ready(c, 1);
    if (ready <= 0)
        return ready < 0 ? SHMQ_CORRUPT : SHMQ_EMPTY;
    SHMQ_STEP();
    if (__builtin_expect(ready >= (int64_t)SHMQ_MESSAGE_HEADER, 1)) {
        const volatile uint64_t *at = (const volatile uint64_t *)(c->slots + (c->read & c->mask));
        uint64_t header = *at, length = (uint32_t)header; /* C4: one load, then only the copy */
        uint32_t kind = (uint32_t)(header >> 32);
        bool straight = kind == SHMQ_MESSAGE_MSG && shmq_message_fits_straight(c->mask, c->read, length);
        if (__builtin_expect((straight || kind == SHMQ_MESSAGE_SKIP) && length <= shmq_channel_limit(c->mask), 1)) {
            shmq_message_lay(m, c->slots, c->mask, c->read, kind, length);
            if (__builtin_expect(m->span <= (uint64_t)ready, 1))
                return SHMQ_OK;
        }
    }
    c->tail_cache = c->read;
    return SHMQ_CORRUPT;
}

/* Go on to the next message without giving this one's bytes back. */
static inline void shmq_channel_take(shmq_consumer *c, const shmq_message *m)
{
    c->read += m->span;
}

/* Give the oldest messages back, which take `span` bytes together. */
static inline void shmq_channel_release(shmq_consumer *c, uint64_t span, uint64_t messages)
{
    _Atomic uint64_t *popped = &shmq_channel_of(c->ring)->popped;
    SHMQ_STEP();
    shmq_consumer_release(c, span); /* R1 */
    SHMQ_STEP();
    uint64_t count = atomic_load_explicit(popped, memory_order_relaxed);
    atomic_store_explicit(popped, count + messages, memory_order_relaxed);
    SHMQ_STEP();
}

/* Copy one message out, at most `room` bytes; its length. SHMQ_EMPTY, SHMQ_CORRUPT, or SHMQ_INVALID when it is
 * longer than room and stays. */
static inline int64_t shmq_channel_pop(shmq_consumer *c, void *data, uint64_t room)
{
    shmq_message m;
    int rc = shmq_channel_look(c, &m);
    if (rc != SHMQ_OK)
        return rc;
    if (m.length > room)
        return SHMQ_INVALID;
    memcpy(data, m.payload, m.length);
    SHMQ_STEP();
    shmq_channel_take(c, &m);
    shmq_channel_release(c, m.span, 1);
    return (int64_t)m.length;
}

#endif
