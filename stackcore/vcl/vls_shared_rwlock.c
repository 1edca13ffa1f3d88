/* vls_shared_rwlock.c - VPP's VLS of 2019: one shared session table under a read-write lock.
 *
 * The core rings one polling worker for each connection, in turn. A worker takes as many as it was rung
 * for; what is left over (its worker was busy, or died) goes to whoever has nothing else to do. Without
 * that rule an accept loop of the first worker to wake would take them all.
 *
 * Per call: the table's read lock to find the session, the session's spin lock for the whole call, and
 * the table's read lock again on the way out: four read-modify-writes on a line that all workers
 * share, two on the session's. Create, accept and close take the write lock; close holds it across
 * the close. Accepts come from the listener's ring and are serialised by the listener's lock.
 *
 * A lock found in the hands of a dead worker is taken over (lock.h): sessions belong to one worker, so
 * only the pool's free list can be torn, and table.c rebuilds that when it runs dry.
 */
#include "stackcore/vcl/vcl.h"

/* A reader is told of a dead writer, too, but only the next writer can repair: it counts the death. */
static void table_read(vcl_worker *w)
{
    shmq_rw_read_acquire(&w->table_lock, -1);
}

static vcl_session *enter(vcl_worker *w, int fd)
{
    table_read(w);
    vcl_session *s = vcl_lookup(w, fd);
    if (s)
        w->count.owner_deaths += shmq_spin_acquire(&s->lock, w->token, -1, &w->session_locks) == SHMQ_OWNER_DIED;
    shmq_rw_read_release(&w->table_lock);
    return s;
}

static void leave(vcl_worker *w, int fd)
{
    vcl_session *s = vcl_lookup(w, fd);
    if (s)
        shmq_spin_release(&s->lock);
    /* In 2019 the session was unlocked under the read lock. This lock prefers writers, so waiting for it with a
     * session in hand would close a circle: writer waits for reader, reader for session, session for writer. */
    table_read(w);
    shmq_rw_read_release(&w->table_lock);
}

static void table_enter(vcl_worker *w)
{
    if (shmq_rw_write_acquire(&w->table_lock, -1) == SHMQ_OWNER_DIED) {
        w->count.owner_deaths++;
        w->table->free_head = VCL_NONE; /* perhaps torn: the next new session rebuilds it */
    }
}

static void table_leave(vcl_worker *w)
{
    shmq_rw_write_release(&w->table_lock);
}

static shmq_ring *accept_ring(const vcl_worker *w, int32_t listener)
{
    return (shmq_ring *)(w->base + w->stack->accept_at + listener * w->stack->accept_stride);
}

static bool has_accept(vcl_worker *w, const vcl_watch *watch)
{
    if (watch->rung <= 0 && !w->leftovers)
        return false;
    const shmq_ring *r = accept_ring(w, w->table->sessions[watch->at].listener);
    return atomic_load_explicit(&r->tail, memory_order_relaxed) != atomic_load_explicit(&r->head, memory_order_relaxed);
}

/* A listener reported in a quiet moment has one accept to give. */
static bool take_leftovers(vcl_worker *w, vcl_watch *watch)
{
    bool yes = watch->out_epoch == w->epoch && watch->spare;
    watch->spare = 0;
    return yes;
}

/* The ring has many consumers one after another: the listener's lock is held, the state is in the header. */
static bool next_accept(vcl_worker *w, vcl_session *listener, sc_pending *out)
{
    vcl_watch *watch = vcl_watch_of(w, vcl_at(w, listener));
    shmq_consumer c;
    if (watch && watch->epoll >= 0 && watch->rung <= 0 && !take_leftovers(w, watch))
        return false; /* polled listeners take turns; a plain blocking accept takes what there is */
    if (shmq_consumer_bind(&c, accept_ring(w, listener->listener), (uint64_t)w->stack->accept_stride) != SHMQ_OK || c.slot_size != sizeof *out)
        return false;
    if (shmq_ring_pop(&c, out) != SHMQ_OK || out->session < 0 || out->session >= w->stack->sessions)
        return false;
    if (watch && watch->rung > 0)
        watch->rung--;
    w->known[out->session] = (vcl_known){VCL_NONE, out->generation, out->seq, 0};
    return true;
}

static int joined(vcl_worker *w)
{
    return shmq_rw_join(&w->table_lock, &w->table->lock, w->futex_lock) == SHMQ_OK ? 0 : -EUSERS;
}

static int parent(vcl_worker *w)
{
    (void)w;
    return 0;
}

static void counters(vcl_worker *w)
{
    const shmq_lock_stats *t = &w->table_lock.stats, *s = &w->session_locks;
    w->count.lock_acquires = (int64_t)(t->acquires + s->acquires);
    w->count.lock_contended = (int64_t)(t->contended + s->contended);
    w->count.lock_wait_ns = t->wait_ns + s->wait_ns;
}

static void left(vcl_worker *w)
{
    if (w->table_lock.lock)
        shmq_rw_leave(&w->table_lock);
}

const vls_ops vls_shared_rwlock = {
    .name = "shared-rwlock",
    .doc = "one shared table and listener under a read-write lock (VPP's VLS of 2019)",
    .shared_table = true,
    .enter = enter,
    .leave = leave,
    .table_enter = table_enter,
    .table_leave = table_leave,
    .next_accept = next_accept,
    .has_accept = has_accept,
    .joined = joined,
    .child = joined, /* its own slot in the lock */
    .parent = parent,
    .counters = counters,
    .left = left,
};
