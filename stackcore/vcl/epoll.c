/* epoll.c - readiness: edge and level, one entry per fd and wait, no event lost between sets.
 *
 * A set keeps a list of sessions that may be ready. An edge-triggered one stands there with what
 * happened while another set was waited on; a level-triggered one stands there as long as looking
 * at its fifos says ready. The running wait puts events out at once (vcl_notify).
 * Listeners are watched from a small table of the worker, because a shared listener is in the sets of
 * many workers at the same time.
 */
#include "stackcore/vcl/vcl.h"

#define WAIT_SLICE_NS (50 * 1000000) /* between looks at the control socket */

/* ---- the ready list of a set: links are table indices ---- */

static void list_append(vcl_worker *w, vcl_session *ep, vcl_session *s)
{
    if (s->listed)
        return;
    int32_t at = vcl_at(w, s);
    s->listed = 1;
    s->ready_next = VCL_NONE;
    s->ready_prev = ep->ready_prev;
    if (ep->ready_prev >= 0)
        w->table->sessions[ep->ready_prev].ready_next = at;
    else
        ep->ready_next = at;
    ep->ready_prev = at;
}

void vcl_unlist(vcl_worker *w, vcl_session *s)
{
    if (!s->listed)
        return;
    vcl_session *all = w->table->sessions, *ep = &all[s->epoll];
    if (s->ready_prev >= 0)
        all[s->ready_prev].ready_next = s->ready_next;
    else
        ep->ready_next = s->ready_next;
    if (s->ready_next >= 0)
        all[s->ready_next].ready_prev = s->ready_prev;
    else
        ep->ready_prev = s->ready_prev;
    s->listed = 0;
    s->ready_next = s->ready_prev = VCL_NONE;
}

/* ---- putting events out ---- */

static void put_out(vcl_worker *w, vcl_session *s, uint32_t what)
{
    if (s->out_epoch == w->epoch) {
        w->out_events[s->out_at].events |= (int32_t)what;
        return;
    }
    s->out_epoch = w->epoch;
    s->out_at = w->out_n;
    w->out_events[w->out_n++] = (sc_epoll_event){(int32_t)what, s->fd, s->data};
    if (s->mask & EPOLLONESHOT)
        s->mask &= EPOLLET | EPOLLONESHOT;
}

/* What may be reported: errors always, but nothing from a one-shot session that has fired. */
static uint32_t wanted_of(const vcl_session *s)
{
    bool fired = (s->mask & EPOLLONESHOT) && !(s->mask & ~(EPOLLET | EPOLLONESHOT));
    return fired ? 0 : s->mask | EPOLLERR | EPOLLHUP;
}

void vcl_notify(vcl_worker *w, vcl_session *s, uint32_t what)
{
    if (s->epoll < 0)
        return;
    what &= wanted_of(s);
    if (!what)
        return;
    vcl_session *ep = &w->table->sessions[s->epoll];
    bool out_now = w->waiting == s->epoll && (!vcl_out_full(w) || s->out_epoch == w->epoch);
    if (out_now)
        put_out(w, s, what);
    else
        s->pending |= what;
    if (!out_now || !(s->mask & EPOLLET))
        list_append(w, ep, s);
}

/* Readiness now; what is not ready will announce itself. An app that read exactly what there was, or filled the
 * fifo exactly, has left the event flag set or no wish behind (F3, F4). */
static uint32_t arm(vcl_worker *w, vcl_session *s)
{
    uint32_t ready = vcl_readiness(w, s);
    if (!(ready & EPOLLIN) && (s->mask & EPOLLIN)) {
        shmq_fifo_clear_event(&s->rx);
        if (shmq_fifo_avail(&s->rx, UINT64_MAX))
            ready |= EPOLLIN;
    }
    if (!(ready & EPOLLOUT) && (s->mask & EPOLLOUT) && !shmq_fifo_want(&s->tx, (s->tx.mask + 1) / 2))
        ready |= EPOLLOUT;
    return ready;
}

/* Readiness of a listed session now; level-triggered ones are asked, edge-triggered ones remember. */
static uint32_t listed_readiness(vcl_worker *w, vcl_session *s)
{
    uint32_t wanted = wanted_of(s);
    if (s->mask & EPOLLET)
        return s->pending & wanted;
    return arm(w, s) & wanted;
}

static void scan_ready(vcl_worker *w, vcl_session *ep)
{
    int32_t at = ep->ready_next, last = ep->ready_prev;
    while (at >= 0 && !vcl_out_full(w)) {
        vcl_session *s = &w->table->sessions[at];
        int32_t next = s->ready_next;
        bool final = at == last;
        uint32_t ready = listed_readiness(w, s);
        vcl_unlist(w, s);
        s->pending = 0;
        if (ready) {
            put_out(w, s, ready);
            if (!(s->mask & EPOLLET))
                list_append(w, ep, s); /* to the end: fair when maxevents is small */
        }
        if (final)
            break;
        at = next;
    }
}

/* ---- listeners ---- */

vcl_watch *vcl_watch_of(vcl_worker *w, int32_t at)
{
    for (int i = 0; i < SC_MAX_LISTENERS; i++)
        if (w->watches[i].at == at)
            return &w->watches[i];
    return NULL;
}

static void scan_listeners(vcl_worker *w, int32_t ep)
{
    for (int i = 0; i < SC_MAX_LISTENERS && !vcl_out_full(w); i++) {
        vcl_watch *watch = &w->watches[i];
        if (watch->at < 0 || watch->epoll != ep || !(watch->mask & EPOLLIN) || watch->out_epoch == w->epoch)
            continue;
        bool due = w->vls->has_accept(w, watch);
        if (watch->mask & EPOLLET)
            due = due && (watch->rung || w->leftovers);
        if (!due)
            continue;
        if (!w->vls->shared_table)
            watch->rung = 0;
        watch->out_epoch = w->epoch;
        watch->spare = w->leftovers;
        w->out_events[w->out_n++] = (sc_epoll_event){EPOLLIN, watch->fd, watch->data};
    }
}

static int watch_listener(vcl_worker *w, vcl_session *ep, int op, vcl_session *s, int fd, uint32_t mask, int64_t data)
{
    vcl_watch *watch = vcl_watch_of(w, vcl_at(w, s));
    if (!watch)
        return -ENOENT;
    bool shared = w->vls->shared_table;
    if (op != EPOLL_CTL_ADD && op != EPOLL_CTL_MOD && op != EPOLL_CTL_DEL)
        return -EINVAL;
    if (op == EPOLL_CTL_DEL) {
        if (watch->epoll != vcl_at(w, ep))
            return -ENOENT;
        watch->epoll = VCL_NONE;
        return shared ? vcl_push(w, SC_EV_UNPOLL, VCL_NONE, 0, s->listener) : 0;
    }
    if (op == EPOLL_CTL_ADD && watch->epoll >= 0)
        return -EEXIST;
    if (op == EPOLL_CTL_MOD && watch->epoll != vcl_at(w, ep))
        return -ENOENT;
    watch->epoll = vcl_at(w, ep);
    watch->mask = mask;
    watch->fd = fd;
    watch->data = data;
    watch->rung += !shared; /* whatever waits already is reported */
    return shared && op == EPOLL_CTL_ADD ? vcl_push(w, SC_EV_POLL, VCL_NONE, 0, s->listener) : 0;
}

int vcl_epoll_ctl(vcl_worker *w, vcl_session *ep, int op, vcl_session *s, int fd, uint32_t mask, int64_t data)
{
    if (ep->kind != VCL_EPOLL || s->kind == VCL_EPOLL)
        return -EINVAL;
    if (s->kind == VCL_LISTENER)
        return watch_listener(w, ep, op, s, fd, mask, data);
    int32_t at = vcl_at(w, ep);
    switch (op) {
    case EPOLL_CTL_ADD:
        if (s->epoll >= 0)
            return -EEXIST;
        s->epoll = at;
        break;
    case EPOLL_CTL_MOD:
    case EPOLL_CTL_DEL:
        if (s->epoll != at)
            return -ENOENT;
        vcl_unlist(w, s);
        s->pending = 0;
        if (op == EPOLL_CTL_DEL) {
            s->epoll = VCL_NONE;
            return 0;
        }
        break;
    default:
        return -EINVAL;
    }
    s->fd = fd;
    s->mask = mask;
    s->data = data;
    uint32_t ready = arm(w, s) & (mask | EPOLLERR | EPOLLHUP);
    if (ready) {
        s->pending = ready;
        list_append(w, ep, s);
    }
    return 0;
}

/* ---- the wait ---- */

static bool something_to_do(void *arg)
{
    vcl_worker *w = arg;
    if (shmq_consumer_ready(&w->in, 1) != 0 || w->events->waiting(w))
        return true;
    if (w->vls->shared_table)
        for (int i = 0; i < SC_MAX_LISTENERS; i++)
            if (w->watches[i].at >= 0 && w->watches[i].epoll == w->waiting && w->vls->has_accept(w, &w->watches[i]))
                return true;
    return false;
}

static void harvest(vcl_worker *w, vcl_session *ep)
{
    if (vcl_out_full(w) || !(w->events->waiting(w) || shmq_consumer_ready(&w->in, 1) > 0))
        return;
    int64_t start = shmq_now_ns();
    w->events->harvest(w);
    w->count.harvests++;
    w->count.harvest_ns += shmq_now_ns() - start;
    if (!vcl_out_full(w))
        scan_listeners(w, vcl_at(w, ep)); /* an accept event only filled its listener's queue */
}

/* What was ready before and what is new take turns in coming first, so that neither starves the other when max is small. */
static void collect(vcl_worker *w, vcl_session *ep)
{
    bool new_first = w->epoch & 1;
    if (new_first)
        harvest(w, ep);
    scan_listeners(w, vcl_at(w, ep));
    scan_ready(w, ep);
    if (!new_first)
        harvest(w, ep);
}

/* out: room for max events. Number of events, 0 on timeout, or a negative errno. timeout_ms < 0: for ever. */
int vcl_epoll_wait(vcl_worker *w, vcl_session *ep, sc_epoll_event *out, int max, int timeout_ms)
{
    if (ep->kind != VCL_EPOLL || max <= 0)
        return -EINVAL;
    w->waiting = vcl_at(w, ep);
    w->epoch++;
    w->out_events = out;
    w->out_n = 0;
    w->out_max = max;
    w->count.waits++;
    vcl_flush(w);
    int64_t stop = timeout_ms < 0 ? INT64_MAX : timeout_ms == 0 ? 0 : shmq_now_ns() + (int64_t)timeout_ms * 1000000;
    int rc = 0;
    for (;;) {
        collect(w, ep);
        if (w->out_n)
            break;
        if (shmq_consumer_ready(&w->in, 1) < 0) {
            rc = -EPROTO; /* a cursor no correct core writes */
            break;
        }
        if (timeout_ms == 0)
            break;
        vcl_publish(w);
        uint64_t parks = atomic_load_explicit(&w->in.ring->consumer_cell.parks, memory_order_relaxed);
        rc = shmq_cell_wait(&w->in.ring->consumer_cell, w->wait, stop, WAIT_SLICE_NS, something_to_do, w);
        w->count.parks += (int64_t)(atomic_load_explicit(&w->in.ring->consumer_cell.parks, memory_order_relaxed) - parks);
        if (rc == SHMQ_OK)
            continue;
        if (vcl_core_gone(w)) {
            rc = -ENETDOWN;
            break;
        }
        w->leftovers = true; /* a quiet moment */
        scan_listeners(w, vcl_at(w, ep));
        w->leftovers = false;
        if (w->out_n)
            break;
        if (rc == SHMQ_TIMEOUT || shmq_now_ns() >= stop) {
            rc = 0;
            break;
        }
    }
    w->waiting = VCL_NONE;
    if (w->out_n)
        return w->out_n;
    if (timeout_ms == 0 && ++w->idle_calls % 1024 == 0 && vcl_core_gone(w))
        return -ENETDOWN;
    return rc < 0 ? rc : 0;
}
