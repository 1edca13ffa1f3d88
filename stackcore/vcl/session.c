/* session.c - what a worker does with one session, and its messages to the core. No locks here.
 *
 * With cork > 1 messages are published together: then at the latest at the next epoll_wait, request or
 * detach. A program that goes to sleep elsewhere leaves cork at 1.
 * Every message goes through vcl_push, which waits for a slot when the ring is full: the core
 * drains worker rings without ever waiting for a worker, so a slot comes free or the core is gone.
 */
#include "stackcore/vcl/vcl.h"

#include <poll.h>
#include <sched.h>

#define RING_WAIT_NS INT64_C(1000000000)

/* Has the core closed the control socket, as the kernel does for a dead process? Unread messages do not hide it. */
bool vcl_core_gone(vcl_worker *w)
{
    struct pollfd end = {.fd = w->control_fd}; /* a negative one is ignored */
    if (!w->core_dead && poll(&end, 1, 0) == 1 && (end.revents & (POLLHUP | POLLERR)))
        w->core_dead = true;
    return w->core_dead;
}

void vcl_flush(vcl_worker *w)
{
    if (!w->unpublished)
        return;
    shmq_producer_publish(&w->out, w->unpublished);
    w->unpublished = 0;
    shmq_cell_wake(w->core_cell, w->doorbell);
}

static int wait_for_slot(vcl_worker *w)
{
    int64_t stop = shmq_now_ns() + RING_WAIT_NS;
    vcl_flush(w);
    for (uint32_t i = 1;; i++) {
        int64_t room = shmq_producer_room(&w->out, 1);
        if (room)
            return room < 0 ? -EPROTO : 0;
        sched_yield();
        if (i % 256 == 0 && vcl_core_gone(w))
            return -ENETDOWN;
        if (shmq_now_ns() > stop)
            return -EAGAIN;
    }
}

int vcl_push(vcl_worker *w, int type, int32_t session, int32_t generation, int32_t arg)
{
    for (;;) {
        int rc = sc_event_put(&w->out, w->unpublished, type, w->index, session, generation, 0, arg);
        if (rc == SHMQ_OK) {
            if (++w->unpublished >= w->cork)
                vcl_flush(w);
            return 0;
        }
        if (rc != SHMQ_FULL)
            return -EPROTO; /* the core's cursor makes no sense: it is not our core any more */
        rc = wait_for_slot(w);
        if (rc < 0)
            return rc;
    }
}

/* Requests that need an answer get it in the worker's reply cell, never behind undelivered events. */
int64_t vcl_request(vcl_worker *w, int type, int32_t arg)
{
    int32_t seq = SC_LOAD_ACQUIRE(w->shared->reply_seq);
    int rc = vcl_push(w, type, VCL_NONE, 0, arg);
    if (rc < 0)
        return rc;
    vcl_flush(w);
    int64_t stop = shmq_now_ns() + 5 * RING_WAIT_NS;
    for (uint32_t i = 1; SC_LOAD_ACQUIRE(w->shared->reply_seq) == seq; i++) { /* pairs with sc_x_reply */
        sched_yield();
        if (i % 256 == 0) {
            if (vcl_core_gone(w))
                return -ENETDOWN;
            if (shmq_now_ns() > stop) {
                w->core_dead = true; /* its late answer must not pass for the next request's */
                return -ETIMEDOUT;
            }
        }
    }
    return SC_LOAD(w->shared->reply);
}

/* Give a table entry the fifos of a core session. */
void vcl_bind_stream(vcl_worker *w, vcl_session *s, const sc_pending *from)
{
    const sc_stack *k = w->stack;
    uint8_t *fifos = w->base + k->fifos_at + from->session * k->fifo_stride;
    uint8_t *data = fifos + 2 * sizeof(shmq_fifo);
    s->session = from->session;
    s->generation = from->generation;
    shmq_fifo_bind(&s->rx, (shmq_fifo *)fifos, data, (uint64_t)k->fifo_size);
    shmq_fifo_bind(&s->tx, (shmq_fifo *)fifos + 1, data + k->fifo_size, (uint64_t)k->fifo_size);
    shmq_fifo_resume(&s->rx, false);
    shmq_fifo_resume(&s->tx, true);
    w->known[from->session].at = vcl_at(w, s);
    /* events that came before the accept did not find the entry */
    int32_t state = SC_LOAD(sc_session_at(w->base, k, from->session)->state);
    s->state = state == SC_SESSION_RESET ? VCL_RESET_BY_PEER : state == SC_SESSION_PEER_CLOSED ? VCL_PEER_CLOSED : VCL_READY;
}

static bool gone_after_idling(vcl_worker *w)
{
    return w->core_dead || (++w->idle_calls % 1024 == 0 && vcl_core_gone(w));
}

int64_t vcl_recv(vcl_worker *w, vcl_session *s, void *buf, uint64_t n)
{
    if (s->state == VCL_RESET_BY_PEER)
        return -ECONNRESET;
    uint64_t got = shmq_fifo_read(&s->rx, buf, n);
    if (got < n) {
        /* Empty: from now on new bytes must announce themselves, and bytes that slipped in are taken here
         * (F3). A short read tells an edge-triggered app to wait, so it must not leave the flag set. */
        shmq_fifo_clear_event(&s->rx);
        shmq_fifo_avail(&s->rx, UINT64_MAX);
        got += shmq_fifo_read(&s->rx, (uint8_t *)buf + got, n - got);
    }
    if (got) {
        w->count.rx_bytes += (int64_t)got;
        if (shmq_fifo_wanted(&s->rx))
            vcl_push(w, SC_EV_RX_ROOM, s->session, s->generation, 0);
        return (int64_t)got;
    }
    if (n == 0 || s->state == VCL_PEER_CLOSED)
        return 0;
    return gone_after_idling(w) ? -ENETDOWN : -EAGAIN;
}

int64_t vcl_send(vcl_worker *w, vcl_session *s, const void *buf, uint64_t n, int flags)
{
    if (s->state == VCL_RESET_BY_PEER)
        return -ECONNRESET;
    uint64_t put = 0;
    for (;;) {
        put += shmq_fifo_write(&s->tx, (const uint8_t *)buf + put, n - put);
        /* Told now when all is in, or when there is no room for the rest, which only the core can make. */
        if ((put < n || !(flags & VCL_SEND_MORE)) && shmq_fifo_set_event(&s->tx)) {
            int rc = vcl_push(w, SC_EV_TX, s->session, s->generation, 0);
            if (rc < 0) { /* a core that stands still: the bytes are in, the next send tells of them */
                atomic_store_explicit(&s->tx.fifo->event, 0, memory_order_seq_cst);
                if (!put || rc != -EAGAIN)
                    return rc;
                break;
            }
        }
        /* Half the fifo: waking the app for every freed byte would cost more than it moves. */
        if (put == n || shmq_fifo_want(&s->tx, (s->tx.mask + 1) / 2))
            break;
    }
    w->count.tx_bytes += (int64_t)put;
    if (put || n == 0)
        return (int64_t)put;
    return gone_after_idling(w) ? -ENETDOWN : -EAGAIN;
}

int vcl_close_stream(vcl_worker *w, vcl_session *s)
{
    vcl_known *known = &w->known[s->session];
    if (known->generation == s->generation) {
        known->at = VCL_NONE;
        known->closed = 1;
    }
    return vcl_push(w, SC_EV_CLOSE, s->session, s->generation, 0);
}

uint32_t vcl_readiness(vcl_worker *w, vcl_session *s)
{
    (void)w;
    if (s->state == VCL_RESET_BY_PEER)
        return EPOLLIN | EPOLLOUT | EPOLLERR | EPOLLHUP;
    uint32_t ready = 0;
    if (shmq_fifo_avail(&s->rx, 1))
        ready |= EPOLLIN;
    if (s->state == VCL_PEER_CLOSED)
        ready |= EPOLLIN | EPOLLRDHUP;
    if (shmq_fifo_room(&s->tx, 1))
        ready |= EPOLLOUT;
    return ready;
}
