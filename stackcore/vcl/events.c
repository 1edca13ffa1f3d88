/* events.c - what all event modes share: the oracle, the effect of an event, the vector of references.
 *
 * The oracle puts every event to exactly one account, asked in this order: stale, misdelivered,
 * duplicate, delivered (or late: the app had closed the session, which is nobody's fault). An event
 * that reaches no account was lost; the core finds those by subtraction.
 */
#include "stackcore/vcl/vcl.h"

typedef enum { STALE, MISDELIVERED, DUPLICATE, LATE, DELIVERED } verdict;

static void account(vcl_worker *w, int32_t session, int32_t generation, int32_t seq, int32_t as)
{
    sc_session *s = sc_session_at(w->base, w->stack, session);
    SC_STORE(s->seen_generation, generation);
    SC_STORE(s->seen_as, as);
    SC_STORE_RELEASE(s->seen_seq, seq);
}

static vcl_known *known_of(vcl_worker *w, const sc_event *e)
{
    return e->session >= 0 && e->session < w->stack->sessions ? &w->known[e->session] : NULL;
}

/* a comes after b, also across the wrap of 32-bit counters */
static bool later(int32_t a, int32_t b)
{
    return (int32_t)((uint32_t)a - (uint32_t)b) > 0;
}

static verdict judge(vcl_worker *w, const sc_event *e)
{
    if (e->worker != w->index || e->check != sc_event_check(e))
        return MISDELIVERED;
    if (e->type == SC_EV_ACCEPT_READY)
        return DELIVERED;
    vcl_known *k = known_of(w, e);
    if (!k)
        return MISDELIVERED;
    if (e->type == SC_EV_ACCEPTED && later(e->generation, k->generation)) {
        *k = (vcl_known){VCL_NONE, e->generation, e->seq, 0};
        account(w, e->session, e->generation, e->seq, SC_SEEN_DELIVERED);
        return DELIVERED;
    }
    if (e->generation != k->generation)
        return later(k->generation, e->generation) ? LATE : MISDELIVERED;
    if (!later(e->seq, k->last_seq))
        return DUPLICATE;
    w->count.gaps += e->seq - k->last_seq - 1;
    k->last_seq = e->seq;
    account(w, e->session, e->generation, e->seq, SC_SEEN_DELIVERED);
    return k->closed ? LATE : DELIVERED;
}

static void queue_accept(vcl_worker *w, const sc_event *e)
{
    for (int i = 0; i < SC_MAX_LISTENERS; i++) {
        vcl_watch *watch = &w->watches[i];
        if (watch->at < 0 || w->table->sessions[watch->at].listener != e->arg || !watch->queue)
            continue;
        /* one place per core session: it cannot overflow */
        watch->queue[watch->queue_tail++ & watch->queue_mask] = (sc_pending){e->session, e->generation, e->seq, e->arg};
        watch->rung = 1;
        return;
    }
}

/* What an event does to the worker's state, and what the app is told. */
static void apply(vcl_worker *w, const sc_event *e)
{
    if (e->type == SC_EV_ACCEPT_READY) {
        for (int i = 0; i < SC_MAX_LISTENERS; i++)
            if (w->watches[i].at >= 0 && w->table->sessions[w->watches[i].at].listener == e->arg)
                w->watches[i].rung++;
        return;
    }
    if (e->type == SC_EV_ACCEPTED) {
        queue_accept(w, e);
        return;
    }
    vcl_known *k = known_of(w, e);
    if (!k || k->at < 0)
        return; /* accept() will find the state in the session's record */
    vcl_session *s = &w->table->sessions[k->at];
    switch (e->type) {
    case SC_EV_RX:
        /* the app is going to read these lines and write those, which the core touched last */
        __builtin_prefetch(&s->rx.fifo->tail, 1);
        __builtin_prefetch(s->rx.data + (s->rx.pos & s->rx.mask), 0);
        __builtin_prefetch(&s->tx.fifo->tail, 1);
        __builtin_prefetch(s->tx.data + (s->tx.pos & s->tx.mask), 1);
        vcl_notify(w, s, EPOLLIN);
        break;
    case SC_EV_TX_ROOM:
        vcl_notify(w, s, EPOLLOUT);
        break;
    case SC_EV_DISCONNECTED:
        if (s->state == VCL_READY)
            s->state = VCL_PEER_CLOSED;
        vcl_notify(w, s, EPOLLIN | EPOLLRDHUP);
        break;
    case SC_EV_RESET:
        s->state = VCL_RESET_BY_PEER;
        vcl_notify(w, s, EPOLLIN | EPOLLOUT | EPOLLERR | EPOLLHUP);
        break;
    }
}

void vcl_deliver(vcl_worker *w, const sc_event *e)
{
    switch (judge(w, e)) {
    case MISDELIVERED:
        w->count.misdelivered++;
        break;
    case DUPLICATE:
        w->count.duplicate++;
        break;
    case LATE:
        w->count.late++;
        break;
    default:
        w->count.delivered++;
        apply(w, e);
    }
}

void vcl_deliver_stale(vcl_worker *w, const sc_event *e, const vcl_shadow *shadow)
{
    w->count.stale++;
    if (shadow->session >= 0 && shadow->session < w->stack->sessions) {
        vcl_known *k = &w->known[shadow->session];
        bool known = k->generation == shadow->generation;
        /* of a later generation: its accept event went stale, and the app will never hear of that session */
        if (known ? later(shadow->seq, k->last_seq) : later(shadow->generation, k->generation))
            account(w, shadow->session, shadow->generation, shadow->seq, SC_SEEN_STALE);
        if (known && later(shadow->seq, k->last_seq))
            k->last_seq = shadow->seq;
    }
    /* Such a queue cannot know; it acts on whatever stands in the slot. An accept is left to its own event:
     * doing it twice would hand one connection out twice. */
    if (e->type != SC_EV_ACCEPTED)
        apply(w, e);
}

/* ---- vectors ---- */

static void grow(vcl_worker *w, vcl_vector *v)
{
    uint32_t capacity = v->capacity ? 2 * v->capacity : 64;
    vcl_ref *refs = malloc(capacity * sizeof *refs);
    vcl_shadow *shadows = malloc(capacity * sizeof *shadows);
    if (!refs || !shadows)
        abort(); /* a few kilobytes: the machine is out of memory, and dropping events silently would be worse */
    uint32_t n = v->tail - v->head;
    if (n) {
        memcpy(refs, v->refs + v->head, n * sizeof *refs);
        memcpy(shadows, v->shadows + v->head, n * sizeof *shadows);
    }
    free(v->refs);
    free(v->shadows);
    w->count.growth_copies += n;
    w->count.vector_bytes += (int64_t)((capacity - v->capacity) * sizeof *refs);
    *v = (vcl_vector){refs, shadows, 0, n, capacity};
}

void vcl_vector_push(vcl_worker *w, vcl_vector *v, uint64_t pos, const sc_event *e)
{
    if (v->tail == v->capacity)
        grow(w, v);
    v->refs[v->tail].pos = pos;
    v->shadows[v->tail] = (vcl_shadow){e->session, e->generation, e->seq, 0};
    v->tail++;
    int64_t n = v->tail - v->head;
    if (n > w->count.vector_high_water)
        w->count.vector_high_water = n;
}

/* Forget the first n references. The space in front is used again when the vector runs empty, or when
 * it would otherwise grow although half of it is dead. */
void vcl_vector_drop(vcl_vector *v, uint32_t n)
{
    v->head += n;
    if (v->head == v->tail) {
        v->head = v->tail = 0;
    } else if (v->head >= v->capacity / 2) {
        uint32_t left = v->tail - v->head;
        memmove(v->refs, v->refs + v->head, left * sizeof *v->refs);
        memmove(v->shadows, v->shadows + v->head, left * sizeof *v->shadows);
        v->head = 0;
        v->tail = left;
    }
}

const vcl_event_ops *const vcl_event_modes[] = {&vcl_two_queue, &vcl_bounded, &vcl_single_queue, NULL};
