/* events_single_queue.c - one vector of references; a slot is freed when its event was delivered.
 *
 * The outline's fix. Everything in the ring is drained into one vector at once, but draining only moves
 * the read cursor: the slot belongs to the consumer until the event went to the app, and slots are
 * freed in ring order. Costs: the vector's growth, and ring slots that stay occupied while the app is slow.
 */
#include "stackcore/vcl/vcl.h"

static void drain(vcl_worker *w)
{
    int64_t ready = shmq_consumer_ready(&w->in, UINT64_MAX);
    for (int64_t i = 0; i < ready; i++, w->in.read++)
        vcl_vector_push(w, &w->refs, w->in.read, vcl_slot(w, w->in.read));
}

static void harvest(vcl_worker *w)
{
    drain(w);
    uint32_t n = 0;
    for (; w->refs.head + n < w->refs.tail && !vcl_out_full(w); n++)
        vcl_deliver(w, vcl_slot(w, w->refs.refs[w->refs.head + n].pos));
    if (n) {
        vcl_vector_drop(&w->refs, n);
        shmq_consumer_release(&w->in, n);
    }
}

static bool waiting(const vcl_worker *w)
{
    return w->refs.head != w->refs.tail;
}

const vcl_event_ops vcl_single_queue = {"single-queue", "one vector of references, a slot is freed when its event was delivered", harvest, waiting};
