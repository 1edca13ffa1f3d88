/* table.c - the session table and the fd table.
 *
 * A session table is a pool with a free list. Private tables need no lock; the shared one is changed
 * only while its write lock is held (table_enter). Entries of dead workers in a shared table are
 * taken back when the pool runs dry.
 */
#include "stackcore/vcl/vcl.h"

int64_t vcl_table_bytes(int64_t capacity)
{
    return (int64_t)(sizeof(vcl_table) + (uint64_t)capacity * sizeof(vcl_session));
}

static void rebuild_free_list(vcl_table *t)
{
    t->free_head = VCL_NONE;
    t->used = 0;
    for (int32_t i = t->capacity - 1; i >= 0; i--) {
        if (t->sessions[i].kind != VCL_FREE) {
            t->used++;
            continue;
        }
        t->sessions[i].next_free = t->free_head;
        t->free_head = i;
    }
}

int vcl_table_init(vcl_table *t, int capacity)
{
    memset(t, 0, (size_t)vcl_table_bytes(capacity));
    t->capacity = capacity;
    rebuild_free_list(t);
    t->ready = 1;
    return 0;
}

/* Free what belongs to workers that are gone, and mend the free list a dead writer may have left torn. */
static void take_back(vcl_worker *w)
{
    vcl_table *t = w->table;
    for (int32_t i = 0; i < t->capacity; i++) {
        vcl_session *s = &t->sessions[i];
        if (s->kind == VCL_FREE || s->kind == VCL_LISTENER || s->owner < 0 || s->owner >= w->stack->workers)
            continue;
        sc_worker *owner = sc_worker_at(w->base, w->stack, s->owner);
        if (SC_LOAD(owner->state) != SC_WORKER_ATTACHED || SC_LOAD(owner->generation) != s->owner_generation) {
            s->kind = VCL_FREE;
            atomic_store_explicit(&s->lock.owner, 0, memory_order_relaxed);
        }
    }
    rebuild_free_list(t);
}

vcl_session *vcl_session_new(vcl_worker *w, vcl_kind kind)
{
    vcl_table *t = w->table;
    if (t->free_head < 0)
        take_back(w);
    if (t->free_head < 0 || t->free_head >= t->capacity)
        return NULL;
    vcl_session *s = &t->sessions[t->free_head];
    int32_t next = s->next_free;
    memset(s, 0, sizeof *s);
    t->free_head = next;
    t->used++;
    s->kind = (int32_t)kind;
    s->owner = w->index;
    s->owner_generation = w->generation;
    s->session = s->epoll = s->next_free = s->fd = s->listener = VCL_NONE;
    s->ready_next = s->ready_prev = VCL_NONE;
    return s;
}

void vcl_session_free(vcl_worker *w, vcl_session *s)
{
    vcl_table *t = w->table;
    s->kind = VCL_FREE;
    s->next_free = t->free_head;
    t->free_head = vcl_at(w, s);
    t->used--;
}

/* The lowest free number, as POSIX has it. */
int vcl_fd_new(vcl_worker *w, int at)
{
    int fd = w->fd_low;
    while (fd < w->fd_capacity && w->fds[fd] >= 0)
        fd++;
    if (fd == w->fd_capacity) {
        int capacity = w->fd_capacity ? 2 * w->fd_capacity : 256;
        int32_t *fds = realloc(w->fds, (size_t)capacity * sizeof *fds);
        if (!fds)
            return -EMFILE;
        for (int i = w->fd_capacity; i < capacity; i++)
            fds[i] = VCL_NONE;
        w->fds = fds;
        w->fd_capacity = capacity;
    }
    w->fds[fd] = at;
    w->fd_low = fd + 1;
    return fd;
}

void vcl_fd_free(vcl_worker *w, int fd)
{
    w->fds[fd] = VCL_NONE;
    if (fd < w->fd_low)
        w->fd_low = fd;
}
