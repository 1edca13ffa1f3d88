/* vls.c - the socket calls: find the session in the listener mode's way, do the work, leave.
 *
 * The order of locks in a locking mode, as VLS had it in 2019: table (read), session, table released;
 * create, accept and close take the table's write lock; epoll_ctl locks the set, then the target.
 */
#include "stackcore/vcl/vcl.h"

const vls_ops *const vls_modes[] = {&vls_duplicated, &vls_shared_rwlock, &vls_unlocked_shared, NULL};

static int new_fd(vcl_worker *w, vcl_session *s)
{
    int fd = s ? vcl_fd_new(w, vcl_at(w, s)) : -ENFILE;
    if (fd < 0 && s)
        vcl_session_free(w, s);
    else if (s)
        s->fd = fd;
    return fd;
}

static vcl_watch *new_watch(vcl_worker *w, int32_t at)
{
    vcl_watch *watch = vcl_watch_of(w, VCL_NONE);
    if (!watch)
        return NULL;
    uint32_t capacity = 1;
    while (capacity < (uint32_t)w->stack->sessions)
        capacity *= 2;
    *watch = (vcl_watch){.at = at, .epoll = VCL_NONE, .queue_mask = capacity - 1};
    watch->queue = malloc(capacity * sizeof *watch->queue);
    if (!watch->queue)
        watch->at = VCL_NONE;
    return watch->queue ? watch : NULL;
}

int vls_listen(vcl_worker *w, int port)
{
    if (port <= 0 || port > 65535)
        return -EINVAL;
    int64_t listener = vcl_request(w, SC_EV_LISTEN, w->vls->shared_table ? port | 1 << 16 : port);
    if (listener < 0)
        return (int)listener;
    w->vls->table_enter(w);
    vcl_session *s = vcl_session_new(w, VCL_LISTENER);
    int fd = new_fd(w, s);
    if (fd >= 0) {
        s->listener = (int32_t)listener;
        s->port = port;
        if (!new_watch(w, vcl_at(w, s))) {
            vcl_fd_free(w, fd);
            vcl_session_free(w, s);
            fd = -ENOMEM;
        }
    }
    w->vls->table_leave(w);
    if (fd < 0)
        vcl_request(w, SC_EV_UNLISTEN, (int32_t)listener);
    return fd;
}

/* A waiting connection's slot can have been freed, and used again, since the core offered it. */
static bool still_there(const vcl_worker *w, const sc_pending *from)
{
    const sc_session *s = sc_session_at(w->base, w->stack, from->session);
    return SC_LOAD(s->generation) == from->generation && SC_LOAD(s->state) != SC_SESSION_FREE;
}

int vls_accept(vcl_worker *w, int listen_fd)
{
    vcl_session *l = w->vls->enter(w, listen_fd);
    if (!l)
        return -EBADF;
    sc_pending from = {0};
    int rc = l->kind != VCL_LISTENER ? -EINVAL : -EAGAIN;
    while (rc == -EAGAIN && w->vls->next_accept(w, l, &from))
        if (still_there(w, &from)) /* else its peer gave up while it waited here */
            rc = 0;
    w->vls->leave(w, listen_fd);
    if (rc < 0) {
        w->count.spurious += rc == -EAGAIN;
        return rc == -EAGAIN && w->core_dead ? -ENETDOWN : rc;
    }
    w->vls->table_enter(w);
    vcl_session *s = vcl_session_new(w, VCL_STREAM);
    int fd = new_fd(w, s);
    if (fd >= 0)
        vcl_bind_stream(w, s, &from);
    w->vls->table_leave(w);
    if (fd < 0) { /* no room: the peer is told, not kept waiting */
        vcl_push(w, SC_EV_CLOSE, from.session, from.generation, 0);
        return fd;
    }
    w->count.accepted++;
    rc = vcl_push(w, SC_EV_ACCEPTED_REPLY, from.session, from.generation, 0);
    if (rc < 0) {
        vls_close(w, fd);
        return rc;
    }
    if (w->vls->shared_table)
        vcl_flush(w); /* until it is told, the core does not know whose session this is */
    return fd;
}

int vls_epoll_create(vcl_worker *w)
{
    w->vls->table_enter(w);
    int fd = new_fd(w, vcl_session_new(w, VCL_EPOLL));
    w->vls->table_leave(w);
    return fd;
}

int vls_epoll_ctl(vcl_worker *w, int ep_fd, int op, int fd, uint32_t mask, int64_t data)
{
    if (ep_fd == fd)
        return -EINVAL;
    vcl_session *ep = w->vls->enter(w, ep_fd);
    if (!ep)
        return -EBADF;
    vcl_session *s = w->vls->enter(w, fd);
    int rc = s ? vcl_epoll_ctl(w, ep, op, s, fd, mask, data) : -EBADF;
    if (s)
        w->vls->leave(w, fd);
    w->vls->leave(w, ep_fd);
    return rc;
}

int vls_epoll_wait(vcl_worker *w, int ep_fd, sc_epoll_event *out, int max, int timeout_ms)
{
    vcl_session *ep = w->vls->enter(w, ep_fd);
    if (!ep)
        return -EBADF;
    int rc = vcl_epoll_wait(w, ep, out, max, timeout_ms);
    w->vls->leave(w, ep_fd);
    return rc;
}

int64_t vls_recv(vcl_worker *w, int fd, void *buf, uint64_t n)
{
    vcl_session *s = w->vls->enter(w, fd);
    if (!s)
        return -EBADF;
    int64_t rc = s->kind == VCL_STREAM ? vcl_recv(w, s, buf, n) : -ENOTCONN;
    w->vls->leave(w, fd);
    return rc;
}

int64_t vls_send(vcl_worker *w, int fd, const void *buf, uint64_t n, int flags)
{
    vcl_session *s = w->vls->enter(w, fd);
    if (!s)
        return -EBADF;
    int64_t rc = s->kind == VCL_STREAM ? vcl_send(w, s, buf, n, flags) : -ENOTCONN;
    w->vls->leave(w, fd);
    return rc;
}

static int close_listener(vcl_worker *w, vcl_session *s)
{
    vcl_watch *watch = vcl_watch_of(w, vcl_at(w, s));
    if (watch) {
        if (watch->epoll >= 0 && w->vls->shared_table)
            vcl_push(w, SC_EV_UNPOLL, VCL_NONE, 0, s->listener);
        free(watch->queue);
        *watch = (vcl_watch){.at = VCL_NONE, .epoll = VCL_NONE};
    }
    return (int)vcl_request(w, SC_EV_UNLISTEN, s->listener);
}

/* Streams of a closed set are no longer watched. */
static void close_epoll(vcl_worker *w, vcl_session *ep)
{
    int32_t at = vcl_at(w, ep);
    for (int fd = 0; fd < w->fd_capacity; fd++) {
        vcl_session *s = vcl_lookup(w, fd);
        if (s && s->kind == VCL_STREAM && s->epoll == at) {
            vcl_unlist(w, s);
            s->epoll = VCL_NONE;
        }
    }
    for (int i = 0; i < SC_MAX_LISTENERS; i++) {
        if (w->watches[i].at < 0 || w->watches[i].epoll != at)
            continue;
        w->watches[i].epoll = VCL_NONE;
        if (w->vls->shared_table)
            vcl_push(w, SC_EV_UNPOLL, VCL_NONE, 0, w->table->sessions[w->watches[i].at].listener);
    }
}

int vls_close(vcl_worker *w, int fd)
{
    w->vls->table_enter(w); /* held across the close, as in 2019 */
    vcl_session *s = vcl_lookup(w, fd);
    if (!s) {
        w->vls->table_leave(w);
        return -EBADF;
    }
    int rc = 0;
    if (s->kind == VCL_STREAM) {
        if (s->epoll >= 0)
            vcl_unlist(w, s);
        rc = vcl_close_stream(w, s);
    } else if (s->kind == VCL_LISTENER) {
        rc = close_listener(w, s);
    } else {
        close_epoll(w, s);
    }
    vcl_fd_free(w, fd);
    if (s->kind != VCL_LISTENER || !w->vls->shared_table)
        vcl_session_free(w, s); /* a shared listener's entry stays: others may stand in its lock */
    w->vls->table_leave(w);
    return rc < 0 ? rc : 0;
}
