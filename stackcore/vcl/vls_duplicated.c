/* vls_duplicated.c - the outline's fix: each child listens for itself, the parent stops, nothing is shared.
 *
 * After fork every child repeats LISTEN for each inherited listener and the core spreads accepts over
 * the workers that did, as SO_REUSEPORT does. Tables are private, so no call takes a lock or touches a
 * line that another worker writes.
 */
#include "stackcore/vcl/vls_private.h"

static int child(vcl_worker *w)
{
    for (int i = 0; i < SC_MAX_LISTENERS; i++) {
        if (w->watches[i].at < 0)
            continue;
        vcl_session *s = &w->table->sessions[w->watches[i].at];
        int64_t listener = vcl_request(w, SC_EV_LISTEN, s->port);
        if (listener < 0)
            return (int)listener;
        s->listener = (int32_t)listener;
    }
    return 0;
}

static int parent(vcl_worker *w)
{
    for (int i = 0; i < SC_MAX_LISTENERS; i++) {
        if (w->watches[i].at < 0)
            continue;
        int64_t rc = vcl_request(w, SC_EV_UNLISTEN, w->table->sessions[w->watches[i].at].listener);
        if (rc < 0)
            return (int)rc;
    }
    return 0;
}

const vls_ops vls_duplicated = {
    .name = "duplicated",
    .doc = "no locks: after fork each child re-listens, the parent un-listens, the core spreads accepts",
    .enter = vls_private_enter,
    .leave = vls_private_leave,
    .table_enter = vls_private_table,
    .table_leave = vls_private_table,
    .next_accept = vls_private_next_accept,
    .has_accept = vls_private_has_accept,
    .joined = vls_private_ok,
    .child = child,
    .parent = parent,
    .counters = vls_private_table,
    .left = vls_private_table,
};
