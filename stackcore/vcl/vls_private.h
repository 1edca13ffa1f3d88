/* vls_private.h - what the lockless listener modes share: a private table, accepts by event. */
#ifndef STACKCORE_VLS_PRIVATE_H
#define STACKCORE_VLS_PRIVATE_H

#include "stackcore/vcl/vcl.h"

static inline vcl_session *vls_private_enter(vcl_worker *w, int fd)
{
    return vcl_lookup(w, fd);
}

static inline void vls_private_leave(vcl_worker *w, int fd)
{
    (void)w, (void)fd;
}

static inline void vls_private_table(vcl_worker *w)
{
    (void)w;
}

static inline int vls_private_ok(vcl_worker *w)
{
    (void)w;
    return 0;
}

static inline bool vls_private_has_accept(vcl_worker *w, const vcl_watch *watch)
{
    (void)w;
    return watch->queue_head != watch->queue_tail;
}

static inline bool vls_private_next_accept(vcl_worker *w, vcl_session *listener, sc_pending *out)
{
    vcl_watch *watch = vcl_watch_of(w, vcl_at(w, listener));
    if (!watch || !vls_private_has_accept(w, watch))
        return false;
    *out = watch->queue[watch->queue_head++ & watch->queue_mask];
    return true;
}

#endif
