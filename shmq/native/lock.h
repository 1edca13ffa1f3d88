/* lock.h - process-shared locks that report their owner's death instead of hanging.
 *
 * SpinLock: one 64-bit word, the owner's token (common.h). RwLock: one 64-bit word, a bit per
 * reader slot and a writer bit, in two ways to wait: spin (with sched_yield when it takes long,
 * because the holder may need this CPU) and futex.
 *
 * Promise: mutual exclusion of writers against all, one read-modify-write of the shared word per
 * uncontended read operation; a waiter finds out within about 20 ms that the holder is dead and gets
 * the lock with SHMQ_OWNER_DIED: what the lock protects may be half written. Every reader is told so until
 * a writer was, because only a writer can repair.
 *
 * Proof sketch (RwLock).
 *   L1  Writers exclude one another by a compare-and-swap of `writer` from 0 to slot+1; only its
 *       winner sets WRITE in the word.
 *   L2  A reader sets its bit, a writer sets WRITE, both by read-modify-writes of the same word,
 *       so one comes first: a reader that finds WRITE takes its bit back and waits; a writer that
 *       finds bits waits until each is gone. Setting WRITE first also gives writers preference.
 *   L3  Everything done under the lock happens before the release that ends it (release RMW), which
 *       the next holder's acquire RMW or load reads from.
 *   L4  A slot belongs to the token in slots[i]. Cleaning up after a dead process starts with a
 *       compare-and-swap of that token to the cleaner's own, so exactly one process cleans, no new
 *       process can take the slot meanwhile, and a cleaner that dies leaves a slot that can be
 *       cleaned again. `writer` is set before WRITE and cleared after it, so a death at any step
 *       leaves a `writer` that names the dead slot.
 *
 * Handles (slots) are private to a process and thread; a forked child takes its own.
 */
#ifndef SHMQ_LOCK_H
#define SHMQ_LOCK_H

#include "shmq/native/wait.h"

/* How long a waiter waits before it asks whether the holder lives; tests of many deaths make it shorter. */
#ifndef SHMQ_DEATH_CHECK_NS
#define SHMQ_DEATH_CHECK_NS (20 * 1000000)
#endif

/* What one handle did, in its own memory: counting must not touch the shared line. */
typedef struct {
    uint64_t acquires;
    uint64_t contended; /* acquires that had to wait */
    int64_t wait_ns;    /* time spent in those */
    int64_t checked_ns; /* when a call that gave up last asked whether the holder lives */
} shmq_lock_stats;

/* A call that gives up (a try, a short timeout) asks, too, or a program that only tries would never learn
 * of a death; not more often than this, because asking costs some 10 us. */
static inline bool shmq_lock_may_check(shmq_lock_stats *stats, int64_t now)
{
    if (stats->checked_ns && now - stats->checked_ns < SHMQ_DEATH_CHECK_NS)
        return false;
    stats->checked_ns = now;
    return true;
}

/* ---- spin lock ---- */

typedef struct {
    _Atomic uint64_t owner; /* token, 0: free */
} shmq_spinlock;

static inline bool shmq_spin_try(shmq_spinlock *l, uint64_t self)
{
    uint64_t free = 0;
    /* acquire: pairs with the release in shmq_spin_release */
    return atomic_compare_exchange_strong_explicit(&l->owner, &free, self, memory_order_acquire, memory_order_relaxed);
}

/* Take the lock over from a dead owner. */
static inline bool shmq_spin_inherit(shmq_spinlock *l, uint64_t self)
{
    uint64_t owner = atomic_load_explicit(&l->owner, memory_order_relaxed);
    return owner && !shmq_token_alive(owner) &&
           atomic_compare_exchange_strong_explicit(&l->owner, &owner, self, memory_order_acquire, memory_order_relaxed);
}

static int __attribute__((noinline, unused)) shmq_spin_wait(shmq_spinlock *l, uint64_t self, int64_t timeout_ns, shmq_lock_stats *stats)
{
    int64_t start = shmq_now_ns(), now = start, checked = start;
    int rc = SHMQ_TIMEOUT;
    for (uint32_t i = 1; rc == SHMQ_TIMEOUT; i++) {
        if (!atomic_load_explicit(&l->owner, memory_order_relaxed) && shmq_spin_try(l, self)) {
            rc = SHMQ_OK;
        } else if (timeout_ns && i % 1024) {
            shmq_relax();
        } else {
            now = shmq_now_ns();
            bool last = timeout_ns >= 0 && now - start >= timeout_ns;
            if (last ? shmq_lock_may_check(stats, now) : now - checked > SHMQ_DEATH_CHECK_NS) {
                checked = now;
                if (shmq_spin_inherit(l, self))
                    rc = SHMQ_OWNER_DIED;
            }
            if (last)
                break;
            sched_yield();
        }
    }
    stats->contended++;
    stats->wait_ns += shmq_now_ns() - start;
    return rc;
}

/* timeout_ns < 0: for ever. SHMQ_OK, SHMQ_OWNER_DIED (held all the same) or SHMQ_TIMEOUT. Not recursive. */
static inline int shmq_spin_acquire(shmq_spinlock *l, uint64_t self, int64_t timeout_ns, shmq_lock_stats *stats)
{
    stats->acquires++;
    if (__builtin_expect(shmq_spin_try(l, self), 1))
        return SHMQ_OK;
    return shmq_spin_wait(l, self, timeout_ns, stats);
}

static inline void shmq_spin_release(shmq_spinlock *l)
{
    SHMQ_STEP();
    atomic_store_explicit(&l->owner, 0, memory_order_release); /* pairs with the acquire in shmq_spin_try */
}

/* Release so that the next holder gets SHMQ_OWNER_DIED: the lock is left to an owner that never lives. */
static inline void shmq_spin_abandon(shmq_spinlock *l)
{
    atomic_store_explicit(&l->owner, SHMQ_NO_START, memory_order_release); /* pid 0 */
}

/* ---- read-write lock ---- */

#define SHMQ_RW_SLOTS 62
#define SHMQ_RW_DIED (UINT64_C(1) << 62)
#define SHMQ_RW_WRITE (UINT64_C(1) << 63)
#define SHMQ_RW_READERS (SHMQ_RW_DIED - 1)

typedef struct {
    alignas(SHMQ_LINE) _Atomic uint64_t word; /* reader bits, DIED, WRITE */
    _Atomic uint32_t writer;                  /* slot + 1 of who writes or is about to, 0: nobody */
    _Atomic uint32_t waiters;                 /* 1: somebody is in a futex wait, or about to be */
    _Atomic uint32_t wake_seq;                /* the futex word */
    alignas(SHMQ_LINE) _Atomic uint64_t slots[SHMQ_RW_SLOTS + 2]; /* tokens */
} shmq_rwlock;

static_assert(offsetof(shmq_rwlock, slots) == SHMQ_LINE, "the hot line holds only the lock");
static_assert(sizeof(shmq_rwlock) == 5 * SHMQ_LINE, "lock is five lines");

typedef struct {
    shmq_rwlock *lock;
    uint64_t bit;
    uint32_t slot;
    bool futex; /* how to wait */
    shmq_lock_stats stats;
} shmq_rwholder;

static inline void shmq_rw_wake(shmq_rwlock *l)
{
    /* pairs with the store to waiters in shmq_rw_sleep: the caller's RMW of word and this load are
     * seq_cst, so either the waiter's re-check sees the new word or this sees the waiter. A flag, not a
     * count: a waiter that was killed costs one vain syscall, not one per release for ever. */
    if (__builtin_expect(atomic_load_explicit(&l->waiters, memory_order_seq_cst) != 0, 0)) {
        atomic_exchange_explicit(&l->waiters, 0, memory_order_seq_cst);
        SHMQ_STEP();
        atomic_fetch_add_explicit(&l->wake_seq, 1, memory_order_release); /* after waiters: see shmq_rw_sleep */
        SHMQ_STEP();
        shmq_futex(&l->wake_seq, FUTEX_WAKE, INT32_MAX, NULL);
    }
}

/* Clean up slot i if its process is dead (L4). True when it was. */
static inline bool shmq_rw_reap_slot(shmq_rwlock *l, uint32_t i)
{
    uint64_t token = atomic_load_explicit(&l->slots[i], memory_order_acquire);
    if (!token || shmq_token_alive(token))
        return false;
    if (!atomic_compare_exchange_strong_explicit(&l->slots[i], &token, shmq_self_token(), memory_order_acq_rel, memory_order_relaxed))
        return false;
    SHMQ_STEP();
    atomic_fetch_and_explicit(&l->word, ~(UINT64_C(1) << i), memory_order_seq_cst);
    SHMQ_STEP();
    if (atomic_load_explicit(&l->writer, memory_order_relaxed) == i + 1) {
        atomic_fetch_or_explicit(&l->word, SHMQ_RW_DIED, memory_order_relaxed);
        SHMQ_STEP();
        atomic_fetch_and_explicit(&l->word, ~SHMQ_RW_WRITE, memory_order_seq_cst);
        SHMQ_STEP();
        atomic_store_explicit(&l->writer, 0, memory_order_release);
        SHMQ_STEP();
    }
    atomic_store_explicit(&l->slots[i], 0, memory_order_release);
    SHMQ_STEP();
    shmq_rw_wake(l);
    return true;
}

/* Clean up after every dead process; how many there were. */
static inline int shmq_rw_reap(shmq_rwlock *l)
{
    int n = 0;
    for (uint32_t i = 0; i < SHMQ_RW_SLOTS; i++)
        n += shmq_rw_reap_slot(l, i);
    return n;
}

/* Take a free slot (or a dead process's). SHMQ_TAKEN when all 62 are in use. */
static inline int shmq_rw_join(shmq_rwholder *h, shmq_rwlock *l, bool futex)
{
    for (int round = 0; round < 2; round++) {
        for (uint32_t i = 0; i < SHMQ_RW_SLOTS; i++) {
            uint64_t free = 0;
            if (atomic_compare_exchange_strong_explicit(&l->slots[i], &free, shmq_self_token(), memory_order_acq_rel, memory_order_relaxed)) {
                *h = (shmq_rwholder){.lock = l, .bit = UINT64_C(1) << i, .slot = i, .futex = futex};
                return SHMQ_OK;
            }
        }
        if (!shmq_rw_reap(l))
            break;
    }
    return SHMQ_TAKEN;
}

/* Give the slot back; the caller holds nothing. */
static inline void shmq_rw_leave(shmq_rwholder *h)
{
    atomic_store_explicit(&h->lock->slots[h->slot], 0, memory_order_release);
}

/* One step of waiting while (word & mask) != 0 or, for mask 0, while another writer is in. */
static inline bool shmq_rw_blocked(shmq_rwlock *l, uint64_t mask)
{
    return mask ? (atomic_load_explicit(&l->word, memory_order_seq_cst) & mask) != 0
                : atomic_load_explicit(&l->writer, memory_order_seq_cst) != 0;
}

static inline void shmq_rw_check_deaths(shmq_rwlock *l, uint32_t own)
{
    uint32_t writer = atomic_load_explicit(&l->writer, memory_order_relaxed);
    if (writer && writer - 1 != own && writer <= SHMQ_RW_SLOTS)
        shmq_rw_reap_slot(l, writer - 1);
    uint64_t bits = atomic_load_explicit(&l->word, memory_order_relaxed) & SHMQ_RW_READERS;
    for (; bits; bits &= bits - 1)
        if ((uint32_t)__builtin_ctzll(bits) != own)
            shmq_rw_reap_slot(l, (uint32_t)__builtin_ctzll(bits));
}

/* Sleep until a release, at most ns. The order matters: whoever clears `waiters` after it was set here
 * changes wake_seq after it was read here, and then the futex wait returns at once. */
static inline void shmq_rw_sleep(shmq_rwlock *l, uint64_t mask, int64_t ns)
{
    struct timespec slice = {0, ns < SHMQ_DEATH_CHECK_NS ? ns : SHMQ_DEATH_CHECK_NS};
    uint32_t seq = atomic_load_explicit(&l->wake_seq, memory_order_acquire);
    atomic_store_explicit(&l->waiters, 1, memory_order_seq_cst); /* pairs with shmq_rw_wake */
    SHMQ_STEP();
    if (shmq_rw_blocked(l, mask))
        shmq_futex(&l->wake_seq, FUTEX_WAIT, seq, &slice);
}

/* Wait until not blocked any more; false when stop_ns came first. */
static bool __attribute__((noinline, unused)) shmq_rw_pause(shmq_rwholder *h, uint64_t mask, int64_t stop_ns)
{
    shmq_rwlock *l = h->lock;
    int64_t start = shmq_now_ns(), checked = start;
    for (uint32_t i = 1; shmq_rw_blocked(l, mask); i++) {
        if (stop_ns > start && i % 1024) {
            shmq_relax();
            continue;
        }
        int64_t now = shmq_now_ns();
        bool last = now >= stop_ns;
        if (last ? shmq_lock_may_check(&h->stats, now) : now - checked >= SHMQ_DEATH_CHECK_NS) {
            checked = now;
            shmq_rw_check_deaths(l, h->slot);
        }
        if (last)
            return !shmq_rw_blocked(l, mask);
        if (h->futex)
            shmq_rw_sleep(l, mask, stop_ns - now);
        else
            sched_yield();
    }
    return true;
}

static inline int64_t shmq_rw_stop(int64_t start, int64_t timeout_ns)
{
    return timeout_ns < 0 || timeout_ns > INT64_MAX - start ? INT64_MAX : start + timeout_ns;
}

static int __attribute__((noinline, unused)) shmq_rw_read_slow(shmq_rwholder *h, int64_t timeout_ns)
{
    shmq_rwlock *l = h->lock;
    int64_t start = shmq_now_ns(), stop = shmq_rw_stop(start, timeout_ns);
    uint64_t word = SHMQ_RW_WRITE;
    while (word & SHMQ_RW_WRITE) {
        /* L2: the writer was first; give way, and tell a writer that waits for this bit */
        atomic_fetch_and_explicit(&l->word, ~h->bit, memory_order_seq_cst);
        SHMQ_STEP();
        shmq_rw_wake(l);
        if (!shmq_rw_pause(h, SHMQ_RW_WRITE, stop))
            break;
        word = atomic_fetch_or_explicit(&l->word, h->bit, memory_order_seq_cst);
        SHMQ_STEP();
    }
    h->stats.contended++;
    h->stats.wait_ns += shmq_now_ns() - start;
    return word & SHMQ_RW_WRITE ? SHMQ_TIMEOUT : word & SHMQ_RW_DIED ? SHMQ_OWNER_DIED : SHMQ_OK;
}

/* timeout_ns < 0: for ever. SHMQ_OK, SHMQ_OWNER_DIED (held all the same) or SHMQ_TIMEOUT. Not recursive. */
static inline int shmq_rw_read_acquire(shmq_rwholder *h, int64_t timeout_ns)
{
    h->stats.acquires++;
    uint64_t word = atomic_fetch_or_explicit(&h->lock->word, h->bit, memory_order_seq_cst); /* L3: the writer's release */
    SHMQ_STEP();
    if (__builtin_expect(!(word & (SHMQ_RW_WRITE | SHMQ_RW_DIED)), 1))
        return SHMQ_OK;
    return word & SHMQ_RW_WRITE ? shmq_rw_read_slow(h, timeout_ns) : SHMQ_OWNER_DIED;
}

static inline void shmq_rw_read_release(shmq_rwholder *h)
{
    atomic_fetch_and_explicit(&h->lock->word, ~h->bit, memory_order_seq_cst); /* L3: the next writer's acquire */
    SHMQ_STEP();
    shmq_rw_wake(h->lock);
}

static inline int shmq_rw_write_acquire(shmq_rwholder *h, int64_t timeout_ns)
{
    shmq_rwlock *l = h->lock;
    h->stats.acquires++;
    int64_t start = 0, stop = 0;
    uint32_t nobody = 0;
    while (!atomic_compare_exchange_strong_explicit(&l->writer, &nobody, h->slot + 1, memory_order_seq_cst, memory_order_relaxed)) { /* L1 */
        if (!start)
            start = shmq_now_ns(), stop = shmq_rw_stop(start, timeout_ns);
        if (!shmq_rw_pause(h, 0, stop))
            goto timeout;
        nobody = 0;
    }
    SHMQ_STEP();
    uint64_t word = atomic_fetch_or_explicit(&l->word, SHMQ_RW_WRITE, memory_order_seq_cst); /* L2 */
    SHMQ_STEP();
    if (word & SHMQ_RW_READERS) {
        if (!start)
            start = shmq_now_ns(), stop = shmq_rw_stop(start, timeout_ns);
        if (!shmq_rw_pause(h, SHMQ_RW_READERS, stop)) {
            atomic_fetch_and_explicit(&l->word, ~SHMQ_RW_WRITE, memory_order_seq_cst);
            SHMQ_STEP();
            atomic_store_explicit(&l->writer, 0, memory_order_seq_cst);
            SHMQ_STEP();
            shmq_rw_wake(l);
            goto timeout;
        }
        word = atomic_load_explicit(&l->word, memory_order_acquire); /* L3: the last reader's release */
    }
    if (start) {
        h->stats.contended++;
        h->stats.wait_ns += shmq_now_ns() - start;
    }
    if (__builtin_expect(!(word & SHMQ_RW_DIED), 1))
        return SHMQ_OK;
    atomic_fetch_and_explicit(&l->word, ~SHMQ_RW_DIED, memory_order_relaxed); /* the caller is told, and alone */
    SHMQ_STEP();
    return SHMQ_OWNER_DIED;
timeout:
    h->stats.contended++;
    h->stats.wait_ns += shmq_now_ns() - start;
    return SHMQ_TIMEOUT;
}

static inline void shmq_rw_write_release(shmq_rwholder *h)
{
    atomic_fetch_and_explicit(&h->lock->word, ~SHMQ_RW_WRITE, memory_order_seq_cst); /* L3 */
    SHMQ_STEP();
    atomic_store_explicit(&h->lock->writer, 0, memory_order_seq_cst); /* after WRITE is gone (L4) */
    SHMQ_STEP();
    shmq_rw_wake(h->lock);
}

/* Before a release: the next holder shall get SHMQ_OWNER_DIED (again). */
static inline void shmq_rw_mark_died(shmq_rwholder *h)
{
    atomic_fetch_or_explicit(&h->lock->word, SHMQ_RW_DIED, memory_order_relaxed);
}

#endif
