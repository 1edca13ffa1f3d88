/* events_two_queue.c - the defect: what does not fit moves by reference to a second vector, its slot is freed.
 *
 * The next epoll_wait looks the references up again. If the ring has wrapped meanwhile, a slot holds
 * another event: the app hears of the wrong session, and the one it should have heard of stays silent.
 * A hypothetical design (VPP copied events, it never kept references): the measured hazard is the
 * outline's. Slots are read while the core may be writing them, so each is copied first, word by word.
 */
#include "stackcore/vcl/vcl.h"

static sc_event copy_slot(const vcl_worker *w, uint64_t pos)
{
    union {
        sc_event event;
        uint64_t words[sizeof(sc_event) / 8];
    } copy;
    const uint64_t *slot = (const uint64_t *)vcl_slot(w, pos);
    for (size_t i = 0; i < sizeof copy.words / 8; i++)
        copy.words[i] = __atomic_load_n(&slot[i], __ATOMIC_RELAXED);
    return copy.event;
}

static void replay(vcl_worker *w)
{
    vcl_vector *v = &w->unhandled;
    uint32_t n = 0;
    for (; v->head + n < v->tail && !vcl_out_full(w); n++) {
        uint64_t pos = v->refs[v->head + n].pos;
        sc_event e = copy_slot(w, pos);
        if (e.pos == (int64_t)pos && e.check == sc_event_check(&e))
            vcl_deliver(w, &e);
        else
            vcl_deliver_stale(w, &e, &v->shadows[v->head + n]);
    }
    if (n)
        vcl_vector_drop(v, n);
}

static void harvest(vcl_worker *w)
{
    replay(w);
    int64_t ready = shmq_consumer_ready(&w->in, UINT64_MAX);
    for (int64_t i = 0; i < ready; i++, w->in.read++) {
        const sc_event *e = vcl_slot(w, w->in.read);
        if (!vcl_out_full(w))
            vcl_deliver(w, e);
        else
            vcl_vector_push(w, &w->unhandled, w->in.read, e);
    }
    if (ready > 0)
        shmq_consumer_release(&w->in, (uint64_t)ready);
}

static bool waiting(const vcl_worker *w)
{
    return w->unhandled.head != w->unhandled.tail;
}

const vcl_event_ops vcl_two_queue = {"two-queue", "overflow goes to a second vector by reference, its slots are freed: events go stale", harvest, waiting};
