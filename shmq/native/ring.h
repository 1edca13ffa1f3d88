/* ring.h - a lock-free single-producer single-consumer ring of fixed-size slots.
 *
 * Promise: every pushed slot is popped exactly once, in order; no call blocks or makes a
 * syscall but shmq_ring_wake_* when the other end sleeps; no access leaves the slot array,
 * whatever the peer writes into the shared header.
 *
 * Proof sketch. `tail` counts pushes, `head` counts releases; both are free-running 64-bit
 * numbers (they never wrap in practice: 2^64 at 1 GHz is 580 years), each written by one end.
 *   R1  The producer writes a slot only while tail - head < capacity, where head was loaded with
 *       acquire: the consumer's reads of the slot's last content happen before its release-store
 *       of that head, so the producer never overwrites a slot that is being read.
 *   R2  The consumer reads slots in [head, tail) where tail was loaded with acquire: the
 *       producer's writes of them happen before its release-store of that tail.
 *   R3  A cached remote cursor is an older value of a growing counter: it can only make the ring
 *       look fuller to the producer or emptier to the consumer, so R1 and R2 hold for it too.
 *   R4  Slot addresses are computed from geometry copied into the private handle at attach and from
 *       the handle's own cursor, masked; what the peer writes decides only how many slots are
 *       used, and tail - head > capacity is reported as SHMQ_CORRUPT.
 *
 * A consumer may read ahead of what it releases (`read` runs in front of `head`): peeked slots stay
 * untouched until shmq_ring_release. The stack's single-queue event mode stands on this.
 *
 * Handles are private to a process and not thread safe; the *roles* they stand for are held in the
 * shared header by process token, and can be taken over from a dead process.
 */
#ifndef SHMQ_RING_H
#define SHMQ_RING_H

#include "shmq/native/wait.h"

#define SHMQ_RING_MAGIC UINT64_C(0x31676e69712d6d68) /* "hm-qing1" */

typedef struct {
    /* line 0: written once by the creator, then read only; the roles change rarely */
    alignas(SHMQ_LINE) uint64_t magic;
    uint64_t capacity;  /* slots, a power of two */
    uint32_t slot_size; /* bytes, a multiple of 8 or any size for byte records */
    uint32_t slots_at;  /* offset of slot 0 from this header */
    _Atomic uint64_t producer; /* token of the role's holder, 0 = free */
    _Atomic uint64_t consumer;
    uint32_t flags; /* SHMQ_RING_* */
    uint32_t reserved;
    /* line 1: by the producer */
    alignas(SHMQ_LINE) _Atomic uint64_t tail;
    /* line 2: by the consumer */
    alignas(SHMQ_LINE) _Atomic uint64_t head;
    /* line 3: counters of the producer, away from its cursor so that a full ring that is polled
     * does not steal the line the consumer reads */
    alignas(SHMQ_LINE) _Atomic uint64_t full_hits;
    /* line 4: counters of the consumer */
    alignas(SHMQ_LINE) _Atomic uint64_t empty_hits;
    _Atomic uint64_t high_water; /* most slots seen in use, by the consumer */
    /* where each end sleeps */
    shmq_cell consumer_cell;
    shmq_cell producer_cell;
} shmq_ring;

static_assert(offsetof(shmq_ring, tail) == 1 * SHMQ_LINE, "tail on its own line");
static_assert(offsetof(shmq_ring, head) == 2 * SHMQ_LINE, "head on its own line");
static_assert(offsetof(shmq_ring, full_hits) == 3 * SHMQ_LINE, "producer counters apart");
static_assert(offsetof(shmq_ring, empty_hits) == 4 * SHMQ_LINE, "consumer counters apart");
static_assert(sizeof(shmq_ring) == 7 * SHMQ_LINE, "header is seven lines");
static_assert(ATOMIC_LLONG_LOCK_FREE == 2, "64-bit atomics must be lock free across processes");

#define SHMQ_RING_EVENTFD 1u /* ends may sleep on an eventfd: who wakes them needs it, too */

typedef struct {
    shmq_ring *ring;
    uint8_t *slots;
    uint64_t mask;
    uint64_t tail;       /* own cursor */
    uint64_t head_cache; /* last head seen */
    uint32_t slot_size;
    int32_t efd; /* the consumer's eventfd in this process, or -1 */
} shmq_producer;

typedef struct {
    shmq_ring *ring;
    uint8_t *slots;
    uint64_t mask;
    uint64_t head;       /* released up to here */
    uint64_t read;       /* handed out up to here; head <= read <= tail */
    uint64_t tail_cache; /* last tail seen */
    uint32_t slot_size;
    int32_t efd; /* the producer's eventfd in this process, or -1 */
} shmq_consumer;

/* Bytes needed for a ring, or 0 when capacity is no power of two, a size is 0 or the product overflows. */
static inline uint64_t shmq_ring_bytes(uint64_t capacity, uint64_t slot_size)
{
    if (!shmq_is_pow2(capacity) || !slot_size || slot_size > UINT32_MAX || capacity > (UINT64_C(1) << 40) / slot_size)
        return 0;
    return sizeof(shmq_ring) + capacity * slot_size;
}

/* Lay out an empty ring at `at` (SHMQ_LINE aligned, zeroed memory of shmq_ring_bytes). */
static inline int shmq_ring_init(void *at, uint64_t capacity, uint64_t slot_size)
{
    if (!shmq_ring_bytes(capacity, slot_size) || (uintptr_t)at % SHMQ_LINE)
        return SHMQ_INVALID;
    shmq_ring *r = at;
    memset(r, 0, sizeof *r);
    r->capacity = capacity;
    r->slot_size = (uint32_t)slot_size;
    r->slots_at = sizeof(shmq_ring);
    r->magic = SHMQ_RING_MAGIC;
    return SHMQ_OK;
}

/* True when the header at `at`, of which `space` bytes are mapped, describes a ring that fits. */
static inline bool shmq_ring_valid(const void *at, uint64_t space)
{
    const shmq_ring *r = at;
    if (space < sizeof *r || (uintptr_t)at % SHMQ_LINE || r->magic != SHMQ_RING_MAGIC)
        return false;
    uint64_t need = shmq_ring_bytes(r->capacity, r->slot_size);
    return need && need <= space && r->slots_at == sizeof(shmq_ring);
}

/* Become the holder of a role word. SHMQ_TAKEN while another live process has it. */
static inline int shmq_role_take(_Atomic uint64_t *role)
{
    uint64_t self = shmq_self_token(), was = atomic_load_explicit(role, memory_order_acquire);
    for (;;) {
        if (was && shmq_token_alive(was))
            return SHMQ_TAKEN; /* also when it is this process: one handle per role */
        /* acquire: what the last holder published before it gave the role up (shmq_role_drop) */
        if (atomic_compare_exchange_strong_explicit(role, &was, self, memory_order_acq_rel, memory_order_acquire)) {
            SHMQ_STEP();
            return SHMQ_OK;
        }
    }
}

static inline void shmq_role_drop(_Atomic uint64_t *role)
{
    uint64_t self = shmq_self_token();
    SHMQ_STEP();
    atomic_compare_exchange_strong_explicit(role, &self, 0, memory_order_release, memory_order_relaxed);
    SHMQ_STEP();
}

/* Bind a handle without touching the role words: for ends whose owner is fixed by design. */
static inline int shmq_producer_bind(shmq_producer *p, void *at, uint64_t space)
{
    if (!shmq_ring_valid(at, space))
        return SHMQ_CORRUPT;
    shmq_ring *r = at;
    *p = (shmq_producer){.ring = r, .slots = (uint8_t *)at + sizeof(shmq_ring), .mask = r->capacity - 1,
                         .slot_size = r->slot_size, .efd = -1};
    if (shmq_ring_bytes(p->mask + 1, p->slot_size) > space || !shmq_is_pow2(p->mask + 1))
        return SHMQ_CORRUPT; /* changed between the check and the copy */
    p->tail = atomic_load_explicit(&r->tail, memory_order_relaxed);
    p->head_cache = atomic_load_explicit(&r->head, memory_order_acquire); /* R1 */
    return p->tail - p->head_cache > p->mask + 1 ? SHMQ_CORRUPT : SHMQ_OK;
}

static inline int shmq_consumer_bind(shmq_consumer *c, void *at, uint64_t space)
{
    if (!shmq_ring_valid(at, space))
        return SHMQ_CORRUPT;
    shmq_ring *r = at;
    *c = (shmq_consumer){.ring = r, .slots = (uint8_t *)at + sizeof(shmq_ring), .mask = r->capacity - 1,
                         .slot_size = r->slot_size, .efd = -1};
    if (shmq_ring_bytes(c->mask + 1, c->slot_size) > space || !shmq_is_pow2(c->mask + 1))
        return SHMQ_CORRUPT;
    c->head = c->read = atomic_load_explicit(&r->head, memory_order_relaxed);
    c->tail_cache = atomic_load_explicit(&r->tail, memory_order_acquire); /* R2 */
    return c->tail_cache - c->head > c->mask + 1 ? SHMQ_CORRUPT : SHMQ_OK;
}

/* ---- producer ---- */

/* Free slots as far as known, at least `want` if the ring has them; < 0 is SHMQ_CORRUPT. */
static inline int64_t shmq_producer_room(shmq_producer *p, uint64_t want)
{
    uint64_t cap = p->mask + 1, used = p->tail - p->head_cache;
    if (cap - used < want) {
        uint64_t head = atomic_load_explicit(&p->ring->head, memory_order_acquire); /* R1: consumer's release of head */
        used = p->tail - head;
        if (used > cap)
            return SHMQ_CORRUPT; /* and the cache keeps a value that is inside the ring (R4) */
        p->head_cache = head;
        if (cap - used < want)
            atomic_store_explicit(&p->ring->full_hits,
                                  atomic_load_explicit(&p->ring->full_hits, memory_order_relaxed) + 1, memory_order_relaxed);
    }
    return (int64_t)(cap - used);
}

/* Address of the i-th slot after the last published one; valid for i < room. */
static inline void *shmq_producer_slot(const shmq_producer *p, uint64_t i)
{
    return p->slots + ((p->tail + i) & p->mask) * p->slot_size;
}

static inline void shmq_producer_publish(shmq_producer *p, uint64_t n)
{
    p->tail += n;
    SHMQ_STEP();
    atomic_store_explicit(&p->ring->tail, p->tail, memory_order_release); /* R2: consumer's acquire of tail */
    SHMQ_STEP();
}

/* Copy one slot. The sizes of the stack's records are worth a branch: no call into libc. */
static inline void shmq_slot_copy(void *to, const void *from, uint32_t size)
{
    __asm__("" : "+r"(to), "+r"(from)); /* or gcc warns about the branch of 64 for a caller's 16-byte record */
    if (size == 32)
        memcpy(to, from, 32);
    else if (size == 64)
        memcpy(to, from, 64);
    else
        memcpy(to, from, size);
}

static inline int shmq_ring_push(shmq_producer *p, const void *record)
{
    int64_t room = shmq_producer_room(p, 1);
    if (room <= 0)
        return room < 0 ? (int)room : SHMQ_FULL;
    shmq_slot_copy(shmq_producer_slot(p, 0), record, p->slot_size);
    shmq_producer_publish(p, 1);
    return SHMQ_OK;
}

/* Push up to n records that lie one after another; how many went in, or SHMQ_CORRUPT. */
static inline int64_t shmq_ring_push_n(shmq_producer *p, const void *records, uint64_t n)
{
    int64_t room = shmq_producer_room(p, n);
    if (room <= 0)
        return room;
    if ((uint64_t)room < n)
        n = (uint64_t)room;
    uint64_t at = p->tail & p->mask, first = p->mask + 1 - at;
    if (first > n)
        first = n;
    memcpy(p->slots + at * p->slot_size, records, first * p->slot_size);
    SHMQ_STEP();
    memcpy(p->slots, (const uint8_t *)records + first * p->slot_size, (n - first) * p->slot_size);
    shmq_producer_publish(p, n);
    return (int64_t)n;
}

/* After one or more publishes: wake the consumer if it sleeps. */
static inline bool shmq_ring_wake_consumer(shmq_producer *p)
{
    return shmq_cell_wake(&p->ring->consumer_cell, p->efd);
}

/* ---- consumer ---- */

/* Slots that can be read and were not handed out yet; looks at the ring when it knows of fewer
 * than want. < 0 is SHMQ_CORRUPT. */
static inline int64_t shmq_consumer_ready(shmq_consumer *c, uint64_t want)
{
    uint64_t ready = c->tail_cache - c->read;
    if (ready < want) {
        uint64_t tail = atomic_load_explicit(&c->ring->tail, memory_order_acquire); /* R2: producer's release of tail */
        uint64_t used = tail - c->head;
        if (used > c->mask + 1 || tail - c->read > used)
            return SHMQ_CORRUPT; /* out of range, or back below what was read; the cache stays inside the ring (R4) */
        c->tail_cache = tail;
        if (used > atomic_load_explicit(&c->ring->high_water, memory_order_relaxed))
            atomic_store_explicit(&c->ring->high_water, used, memory_order_relaxed);
        ready = tail - c->read;
        if (!ready)
            atomic_store_explicit(&c->ring->empty_hits,
                                  atomic_load_explicit(&c->ring->empty_hits, memory_order_relaxed) + 1, memory_order_relaxed);
    }
    return (int64_t)ready;
}

/* Address of the slot at ring position pos, head <= pos < tail. */
static inline const void *shmq_consumer_slot(const shmq_consumer *c, uint64_t pos)
{
    return c->slots + (pos & c->mask) * c->slot_size;
}

/* Give n slots back, in ring order, handed out or not; n <= tail - head. */
static inline void shmq_consumer_release(shmq_consumer *c, uint64_t n)
{
    c->head += n;
    if ((int64_t)(c->read - c->head) < 0)
        c->read = c->head;
    SHMQ_STEP();
    atomic_store_explicit(&c->ring->head, c->head, memory_order_release); /* R1: producer's acquire of head */
    SHMQ_STEP();
}

static inline int shmq_ring_pop(shmq_consumer *c, void *record)
{
    int64_t ready = shmq_consumer_ready(c, 1);
    if (ready <= 0)
        return ready < 0 ? (int)ready : SHMQ_EMPTY;
    shmq_slot_copy(record, shmq_consumer_slot(c, c->read), c->slot_size);
    c->read++;
    shmq_consumer_release(c, 1);
    return SHMQ_OK;
}

/* Pop up to n records into one contiguous block; how many, or SHMQ_CORRUPT. */
static inline int64_t shmq_ring_pop_n(shmq_consumer *c, void *records, uint64_t n)
{
    int64_t ready = shmq_consumer_ready(c, n);
    if (ready <= 0)
        return ready;
    if ((uint64_t)ready < n)
        n = (uint64_t)ready;
    uint64_t at = c->read & c->mask, first = c->mask + 1 - at;
    if (first > n)
        first = n;
    memcpy(records, c->slots + at * c->slot_size, first * c->slot_size);
    memcpy((uint8_t *)records + first * c->slot_size, c->slots, (n - first) * c->slot_size);
    c->read += n;
    shmq_consumer_release(c, n);
    return (int64_t)n;
}

/* After a release: wake a producer that sleeps because the ring was full. */
static inline bool shmq_ring_wake_producer(shmq_consumer *c)
{
    return shmq_cell_wake(&c->ring->producer_cell, c->efd);
}

#endif
