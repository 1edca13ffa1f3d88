/* vls_unlocked_shared.c - the naive removal of the locks, kept as the negative control.
 *
 * No lock, and nothing duplicated: children work on copies of the parent's tables, and the listener
 * stays registered to the parent's worker, whose ring nobody drains. The children get no service.
 */
#include "stackcore/vcl/vls_private.h"

const vls_ops vls_unlocked_shared = {
    .name = "unlocked-shared",
    .doc = "locks removed, listener not duplicated: the children get no service (negative control)",
    .enter = vls_private_enter,
    .leave = vls_private_leave,
    .table_enter = vls_private_table,
    .table_leave = vls_private_table,
    .next_accept = vls_private_next_accept,
    .has_accept = vls_private_has_accept,
    .joined = vls_private_ok,
    .child = vls_private_ok,
    .parent = vls_private_ok,
    .counters = vls_private_table,
    .left = vls_private_table,
};
