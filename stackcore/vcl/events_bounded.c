/* events_bounded.c - take only what fits the output; the rest stays in the ring.
 *
 * VPP 19.08-20.05 did so and lost wake-ups, because the queue signals only when it was empty. Here the
 * wait looks at the ring before it sleeps (wait.h), so what stays in the ring ends the next wait at
 * once: the wake-up is re-armed by construction.
 */
#include "stackcore/vcl/vcl.h"

static void harvest(vcl_worker *w)
{
    int64_t ready = shmq_consumer_ready(&w->in, (uint64_t)(w->out_max - w->out_n));
    uint64_t taken = 0;
    for (; (int64_t)taken < ready && !vcl_out_full(w); taken++)
        vcl_deliver(w, vcl_slot(w, w->in.head + taken));
    if (taken)
        shmq_consumer_release(&w->in, taken);
}

static bool waiting(const vcl_worker *w)
{
    (void)w;
    return false;
}

const vcl_event_ops vcl_bounded = {"bounded", "take only maxevents from the ring, re-arm the wake-up (VPP 19.08, mended)", harvest, waiting};
