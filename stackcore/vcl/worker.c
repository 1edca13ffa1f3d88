/* worker.c - attach, fork, detach: the life of one app worker on a mapped segment.
 *
 * The segment's geometry is checked once, against the mapped size, before any offset is used.
 */
#include "stackcore/vcl/vcl.h"

#include <sys/mman.h>

static bool part_fits(int64_t at, int64_t bytes, int64_t size)
{
    return at >= 0 && bytes >= 0 && at % SHMQ_LINE == 0 && at <= size && bytes <= size - at;
}

static bool geometry_valid(const sc_stack *k, uint64_t size)
{
    int64_t n = (int64_t)size;
    return k->version == SC_ABI_VERSION && k->size == n && k->workers > 0 && k->workers <= SC_MAX_WORKERS && k->listeners > 0 &&
           k->listeners <= SC_MAX_LISTENERS && k->sessions > 0 && k->sessions <= 1 << 24 && shmq_is_pow2((uint64_t)k->ring_slots) &&
           shmq_is_pow2((uint64_t)k->fifo_size) && k->ring_stride > 0 && k->fifo_stride >= 2 * (int64_t)sizeof(shmq_fifo) + 2 * (int64_t)k->fifo_size &&
           part_fits(k->workers_at, k->workers * (int64_t)SC_STRIDE(sc_worker), n) &&
           part_fits(k->listeners_at, k->listeners * (int64_t)SC_STRIDE(sc_listener), n) &&
           part_fits(k->sessions_at, k->sessions * (int64_t)SC_STRIDE(sc_session), n) && k->ring_stride < n && k->accept_stride < n &&
           part_fits(k->rings_at, 2 * k->workers * k->ring_stride, n) && part_fits(k->accept_at, k->listeners * k->accept_stride, n) &&
           k->fifo_stride < n && part_fits(k->fifos_at, k->sessions * k->fifo_stride, n) && part_fits(k->app_at, k->app_size, n);
}

static int bind_rings(vcl_worker *w)
{
    const sc_stack *k = w->stack;
    uint8_t *in = w->base + k->rings_at + 2 * w->index * k->ring_stride;
    if (shmq_consumer_bind(&w->in, in, (uint64_t)k->ring_stride) != SHMQ_OK ||
        shmq_producer_bind(&w->out, in + k->ring_stride, (uint64_t)k->ring_stride) != SHMQ_OK)
        return -EPROTO;
    return w->in.slot_size == sizeof(sc_event) && w->out.slot_size == sizeof(sc_event) ? 0 : -EPROTO;
}

static int become(vcl_worker *w, int index, int control_fd)
{
    if (index < 0 || index >= w->stack->workers)
        return -EINVAL;
    w->index = index;
    w->control_fd = control_fd;
    w->shared = sc_worker_at(w->base, w->stack, index);
    w->generation = SC_LOAD(w->shared->generation);
    w->token = shmq_self_token();
    w->waiting = VCL_NONE;
    w->unpublished = 0;
    w->cork = 1;
    memset(&w->count, 0, sizeof w->count);
    w->session_locks = (shmq_lock_stats){0};
    return bind_rings(w);
}

static int make_table(vcl_worker *w, int capacity)
{
    const sc_stack *k = w->stack;
    if (w->vls->shared_table) {
        w->table = (vcl_table *)(w->base + k->app_at);
        if (k->app_size < vcl_table_bytes(capacity))
            return -ENOSPC;
        return w->table->ready ? 0 : vcl_table_init(w->table, capacity);
    }
    w->table_bytes = vcl_table_bytes(capacity);
    w->table = mmap(NULL, (size_t)w->table_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (w->table == MAP_FAILED) {
        w->table = NULL;
        return -ENOMEM;
    }
    return vcl_table_init(w->table, capacity);
}

static const vls_ops *find_listener_mode(const char *name)
{
    for (const vls_ops *const *m = vls_modes; *m; m++)
        if (strcmp((*m)->name, name) == 0)
            return *m;
    return NULL;
}

static const vcl_event_ops *find_event_mode(const char *name)
{
    for (const vcl_event_ops *const *m = vcl_event_modes; *m; m++)
        if (strcmp((*m)->name, name) == 0)
            return *m;
    return NULL;
}

int vcl_attach(vcl_worker *w, const vcl_config *config)
{
    memset(w, 0, sizeof *w);
    w->base = config->base;
    w->segment_size = config->size;
    w->control_fd = config->control_fd;
    w->doorbell = config->doorbell;
    w->vls = find_listener_mode(config->listener);
    w->events = find_event_mode(config->events);
    w->futex_lock = config->futex_lock;
    w->wait = config->wait;
    for (int i = 0; i < SC_MAX_LISTENERS; i++)
        w->watches[i].at = w->watches[i].epoll = VCL_NONE;
    if (!w->vls || !w->events || config->table_capacity <= 0 || config->size < sizeof(shmq_segment) + sizeof(sc_stack) + sizeof(shmq_cell))
        return -EINVAL;
    w->geometry = *sc_stack_at(w->base); /* copied before it is checked: others can write to the record */
    w->stack = &w->geometry;
    if (!geometry_valid(w->stack, config->size))
        return -EPROTO;
    w->core_cell = sc_core_cell(w->base);
    int rc = become(w, config->index, config->control_fd);
    if (rc == 0)
        rc = make_table(w, config->table_capacity);
    if (rc == 0) {
        w->known = calloc((size_t)w->stack->sessions, sizeof *w->known);
        rc = w->known ? w->vls->joined(w) : -ENOMEM;
    }
    if (rc < 0)
        vcl_detach(w);
    return rc;
}

static void forget(vcl_vector *v)
{
    v->head = v->tail = 0;
}

/* The memory is a copy of the parent's; what it knew of its sessions is not this worker's business. */
int vcl_child(vcl_worker *w, int index, int control_fd)
{
    int rc = become(w, index, control_fd);
    if (rc < 0)
        return rc;
    memset(w->known, 0, (size_t)w->stack->sessions * sizeof *w->known);
    forget(&w->refs);
    forget(&w->unhandled);
    for (int i = 0; i < SC_MAX_LISTENERS; i++) {
        w->watches[i].epoll = VCL_NONE;
        w->watches[i].queue_head = w->watches[i].queue_tail = 0;
    }
    return w->vls->child(w);
}

int vcl_parent(vcl_worker *w)
{
    return w->vls->parent(w);
}

void vcl_publish(vcl_worker *w)
{
    w->vls->counters(w);
    w->count.ring_high_water = (int64_t)atomic_load_explicit(&w->in.ring->high_water, memory_order_relaxed);
    w->count.consumed = (int64_t)w->in.head;
    const int64_t *from = (const int64_t *)&w->count;
    int64_t *to = &w->shared->accepted;
    for (size_t i = 0; i < sizeof w->count / sizeof *from; i++)
        SC_STORE(to[i], from[i]);
}

void vcl_detach(vcl_worker *w)
{
    /* a forked child that never became a worker holds only a copy: what it names is its parent's */
    if (w->shared && w->table && w->known && w->token == shmq_self_token()) {
        vcl_flush(w);
        vcl_publish(w);
        w->vls->left(w);
    }
    for (int i = 0; i < SC_MAX_LISTENERS; i++)
        free(w->watches[i].queue);
    free(w->known);
    free(w->fds);
    free(w->refs.refs);
    free(w->refs.shadows);
    free(w->unhandled.refs);
    free(w->unhandled.shadows);
    if (w->table_bytes && w->table)
        munmap(w->table, (size_t)w->table_bytes);
    memset(w, 0, sizeof *w);
}
