/* vcl.h - the app side of the stack: sessions, fd table, epoll (vcl), and the locks on top (vls).
 *
 * Promise: one worker per process talks to the core only through its two rings, the fifos of its
 * sessions and its control socket. Every call returns a count or a negative errno; none blocks
 * longer than its timeout; when the core is gone calls return -ENETDOWN within a second. Nothing
 * here knows of Python: the binding is module.c, the kernels' entry points are export.c.
 *
 * Two layers, as in VPP: vcl_* functions work on a session and take no lock; vls_* functions turn an
 * fd into a session in the way of the chosen listener mode (vls_ops) and call them.
 * How events get from the ring to the app is the event mode (vcl_event_ops).
 *
 * Not thread safe: one thread of a process uses a worker.
 */
#ifndef STACKCORE_VCL_H
#define STACKCORE_VCL_H

#include "stackcore/abi/abi.h"

#include <sys/epoll.h>

#define VCL_NONE (-1)
#define VCL_SEND_MORE 1 /* send: more follows at once, do not tell the core yet (MSG_MORE) */

typedef enum { VCL_FREE, VCL_STREAM, VCL_LISTENER, VCL_EPOLL } vcl_kind;
typedef enum { VCL_READY, VCL_PEER_CLOSED, VCL_RESET_BY_PEER } vcl_state;

/* One entry of a session table. The table is private to a process, or in the segment's app area
 * (shared-rwlock), where only forked workers can use it: the ends hold addresses. */
typedef struct {
    shmq_spinlock lock; /* vls modes that lock; owner token */
    int32_t kind;
    int32_t state;
    int32_t session; /* core's index and generation */
    int32_t generation;
    int32_t owner; /* worker, and how often that record had been attached */
    int32_t owner_generation;
    int32_t listener; /* LISTENER: core's listener index */
    int32_t port;
    int32_t next_free;
    int32_t fd; /* in the owner's process */
    int32_t epoll; /* table index of the set that watches this session */
    uint32_t mask; /* what it watches for */
    int64_t data;
    uint32_t pending;    /* edge-triggered readiness not reported yet */
    uint32_t out_epoch;  /* epoll_wait in which it was last put out, ... */
    int32_t out_at;      /* ... and where, so that one fd takes one entry */
    int32_t listed;      /* in the ready list of its set */
    int32_t ready_next;  /* EPOLL: head of its ready list */
    int32_t ready_prev;  /* EPOLL: tail */
    shmq_fifo_end rx, tx;
} vcl_session;

typedef struct {
    shmq_rwlock lock;
    int32_t capacity;
    int32_t free_head;
    int32_t ready; /* 1: laid out */
    int32_t used;
    alignas(SHMQ_LINE) vcl_session sessions[];
} vcl_table;

/* What this worker knows of a core session. */
typedef struct {
    int32_t at; /* table index, VCL_NONE: not accepted yet, or closed */
    int32_t generation;
    int32_t last_seq;
    int32_t closed; /* by the app */
} vcl_known;

/* A listener as this worker sees it. */
typedef struct {
    int32_t at;    /* table index, VCL_NONE: unused */
    int32_t epoll; /* set that watches it, VCL_NONE */
    uint32_t mask;
    int32_t fd;
    int64_t data;
    sc_pending *queue; /* accepts that came by event and wait for accept() */
    uint32_t queue_mask, queue_head, queue_tail;
    int32_t rung; /* accept events since the last report, or, for a shared ring, not yet used up */
    uint32_t out_epoch; /* epoll_wait that reported it last */
    int32_t spare; /* reported as left over by others */
} vcl_watch;

/* A reference to an event in the ring, as an event mode keeps it. */
typedef struct {
    uint64_t pos;
} vcl_ref;

/* What the oracle remembers beside a reference, so that a stale one can be put to its session's account. */
typedef struct {
    int32_t session, generation, seq, unused;
} vcl_shadow;

typedef struct {
    vcl_ref *refs;
    vcl_shadow *shadows;
    uint32_t head, tail, capacity;
} vcl_vector;

/* This worker's counters; the layout of sc_worker from `accepted` on. */
typedef struct {
    int64_t accepted, requests, rx_bytes, tx_bytes, delivered, late, stale, misdelivered, duplicate, gaps, spurious, waits, parks, harvests,
        harvest_ns, growth_copies, vector_bytes, vector_high_water, ring_high_water, consumed, lock_acquires, lock_contended, lock_wait_ns, owner_deaths;
} vcl_counters;

static_assert(sizeof(vcl_counters) == sizeof(sc_worker) - offsetof(sc_worker, accepted), "same fields in the same order");

struct vls_ops;
struct vcl_event_ops;

typedef struct vcl_worker {
    uint8_t *base;
    sc_stack geometry;
    const sc_stack *stack; /* the copy above */
    sc_worker *shared;
    int32_t index;
    int32_t generation;
    uint64_t token;
    shmq_consumer in; /* core -> worker */
    shmq_producer out; /* worker -> core */
    uint32_t unpublished, cork; /* messages written, and how many may wait to be published together */
    shmq_cell *core_cell;
    int control_fd;
    int doorbell;
    bool core_dead;
    uint32_t idle_calls;
    bool leftovers; /* nothing else to do: take accepts that others were rung for */
    uint64_t segment_size;
    shmq_wait_policy wait;
    const struct vls_ops *vls;
    const struct vcl_event_ops *events;
    vcl_table *table;
    int64_t table_bytes; /* of a private table, 0: shared */
    shmq_rwholder table_lock;
    bool futex_lock;
    shmq_lock_stats session_locks;
    vcl_known *known; /* [stack->sessions] */
    vcl_watch watches[SC_MAX_LISTENERS];
    int32_t *fds; /* fd -> table index */
    int32_t fd_capacity, fd_low; /* no free fd below fd_low */
    vcl_vector refs;      /* every event mode's first vector */
    vcl_vector unhandled; /* two-queue's second one */
    /* the running epoll_wait */
    int32_t waiting; /* table index of the set, VCL_NONE */
    uint32_t epoch;
    sc_epoll_event *out_events;
    int32_t out_n, out_max;
    vcl_counters count;
} vcl_worker;

/* How an fd becomes a session and where accepts come from: one file per listener mode. */
typedef struct vls_ops {
    const char *name;
    const char *doc;
    bool shared_table;
    /* find the session of fd and keep it (lock held) until leave; NULL: no such fd */
    vcl_session *(*enter)(vcl_worker *w, int fd);
    void (*leave)(vcl_worker *w, int fd);
    /* around changes of the table itself */
    void (*table_enter)(vcl_worker *w);
    void (*table_leave)(vcl_worker *w);
    /* take one waiting accept of the listener; false: there is none. The listener is entered. */
    bool (*next_accept)(vcl_worker *w, vcl_session *listener, sc_pending *out);
    bool (*has_accept)(vcl_worker *w, const vcl_watch *watch);
    int (*joined)(vcl_worker *w);      /* after attach: the table and locks exist now */
    int (*child)(vcl_worker *w);       /* in a forked child, after it registered as its own worker */
    int (*parent)(vcl_worker *w);      /* in the parent, when all children have registered */
    void (*counters)(vcl_worker *w);   /* put lock counters into w->count */
    void (*left)(vcl_worker *w);       /* before detach */
} vls_ops;

/* How ring slots become epoll events: one file per event mode. */
typedef struct vcl_event_ops {
    const char *name;
    const char *doc;
    /* deliver events until the output is full or there are none; free slots in the mode's way */
    void (*harvest)(vcl_worker *w);
    bool (*waiting)(const vcl_worker *w); /* taken from the ring, not delivered yet */
} vcl_event_ops;

extern const vls_ops vls_shared_rwlock, vls_unlocked_shared, vls_duplicated;
extern const vcl_event_ops vcl_two_queue, vcl_bounded, vcl_single_queue;
extern const vls_ops *const vls_modes[];         /* NULL terminated */
extern const vcl_event_ops *const vcl_event_modes[];

/* ---- worker ---- */

typedef struct {
    void *base;
    uint64_t size;
    int index, control_fd, doorbell;
    const char *listener, *events;
    bool futex_lock;
    shmq_wait_policy wait;
    int table_capacity;
} vcl_config;

int64_t vcl_table_bytes(int64_t capacity);
int vcl_attach(vcl_worker *w, const vcl_config *config);
int vcl_child(vcl_worker *w, int index, int control_fd); /* in a forked child: become worker `index` */
int vcl_parent(vcl_worker *w);
void vcl_detach(vcl_worker *w);
void vcl_publish(vcl_worker *w); /* copy the counters to the shared record */
bool vcl_core_gone(vcl_worker *w);

/* ---- internal: table.c ---- */

int vcl_table_init(vcl_table *t, int capacity);
vcl_session *vcl_session_new(vcl_worker *w, vcl_kind kind); /* table entered */
void vcl_session_free(vcl_worker *w, vcl_session *s);       /* table entered */
int vcl_fd_new(vcl_worker *w, int at);
void vcl_fd_free(vcl_worker *w, int fd);

static inline int32_t vcl_at(const vcl_worker *w, const vcl_session *s)
{
    return (int32_t)(s - w->table->sessions);
}

/* The session behind fd, without any lock. */
static inline vcl_session *vcl_lookup(vcl_worker *w, int fd)
{
    if ((unsigned)fd >= (unsigned)w->fd_capacity || w->fds[fd] < 0)
        return NULL;
    return &w->table->sessions[w->fds[fd]];
}

/* ---- internal: session.c ---- */

void vcl_flush(vcl_worker *w); /* publish what is written, wake the core */
int vcl_push(vcl_worker *w, int type, int32_t session, int32_t generation, int32_t arg);
int64_t vcl_request(vcl_worker *w, int type, int32_t arg); /* push and wait for the reply cell */
void vcl_bind_stream(vcl_worker *w, vcl_session *s, const sc_pending *from);
int64_t vcl_recv(vcl_worker *w, vcl_session *s, void *buf, uint64_t n);
int64_t vcl_send(vcl_worker *w, vcl_session *s, const void *buf, uint64_t n, int flags);
int vcl_close_stream(vcl_worker *w, vcl_session *s);
uint32_t vcl_readiness(vcl_worker *w, vcl_session *s);

/* ---- internal: epoll.c ---- */

int vcl_epoll_ctl(vcl_worker *w, vcl_session *ep, int op, vcl_session *s, int fd, uint32_t mask, int64_t data);
int vcl_epoll_wait(vcl_worker *w, vcl_session *ep, sc_epoll_event *out, int max, int timeout_ms);
void vcl_notify(vcl_worker *w, vcl_session *s, uint32_t what);
void vcl_unlist(vcl_worker *w, vcl_session *s);
vcl_watch *vcl_watch_of(vcl_worker *w, int32_t at);

/* ---- internal: events.c ---- */

/* Account for an event and act on it. */
void vcl_deliver(vcl_worker *w, const sc_event *e);
/* The referenced slot was reused: count it once, and act on what stands there now, as such a queue does. */
void vcl_deliver_stale(vcl_worker *w, const sc_event *e, const vcl_shadow *shadow);
void vcl_vector_push(vcl_worker *w, vcl_vector *v, uint64_t pos, const sc_event *e);
void vcl_vector_drop(vcl_vector *v, uint32_t n);

static inline bool vcl_out_full(const vcl_worker *w)
{
    return w->out_n >= w->out_max;
}

static inline const sc_event *vcl_slot(const vcl_worker *w, uint64_t pos)
{
    return shmq_consumer_slot(&w->in, pos);
}

/* ---- the socket calls ---- */

int vls_listen(vcl_worker *w, int port); /* -> fd */
int vls_accept(vcl_worker *w, int fd);   /* -> fd, -EAGAIN */
int vls_epoll_create(vcl_worker *w);
int vls_epoll_ctl(vcl_worker *w, int ep, int op, int fd, uint32_t mask, int64_t data);
int vls_epoll_wait(vcl_worker *w, int ep, sc_epoll_event *out, int max, int timeout_ms);
int64_t vls_recv(vcl_worker *w, int fd, void *buf, uint64_t n);
int64_t vls_send(vcl_worker *w, int fd, const void *buf, uint64_t n, int flags);
int vls_close(vcl_worker *w, int fd);

#endif
