/* end.h - what the ends of a ring, a channel and a byte stream have in common: the role, the lease, waiting, closing.
 *
 * Promise: an end holds its role from construction to close (or its last reference), keeps the memory
 * mapped meanwhile, and lets nothing move its cursor while a view of its slots is out. The GIL makes the
 * single-step calls atomic; a blocking call gives the GIL up and marks the end as busy, so a second
 * thread gets RuntimeError instead of a race. Arguments are converted before the end is looked at, because
 * that may run Python code, which may close the end.
 */
#ifndef SHMQ_END_H
#define SHMQ_END_H

#include "shmq/native/module.h"

#include "shmq/native/channel.h"
#include "shmq/native/stream.h"

typedef struct shmq_end shmq_end;

/* What tells one type of end from another. */
typedef struct {
    const char *noun;                   /* in messages: "ring" */
    const char *unit;                   /* what commit and release count: "slots" */
    const char *damage;                 /* what a hostile peer may have written: "cursor" */
    const char *role, *peer;            /* "producer", "consumer" */
    const char *lent, *give_back;       /* "reserved", "commit" */
    bool is_producer;
    bool (*find)(shmq_end *self, void *at, uint64_t space); /* set shared, role, peer_role, cell; false: not valid */
    int (*bind)(shmq_end *self, uint64_t space);            /* the role is taken: SHMQ_OK or SHMQ_CORRUPT */
    bool (*ready)(void *self);          /* a try is worth while; runs without the GIL, in a loop, and counts nothing */
    PyObject *(*stats)(const shmq_end *self);
} shmq_end_kind;

struct shmq_end {
    PyObject_HEAD
    uint32_t pass; /* equals shmq_fork_generation when calls may go on: open, not busy, nothing leased, not forked */
    uint32_t generation;
    union {
        shmq_producer producer;
        shmq_consumer consumer;
        shmq_fifo_end fifo;
    };
    union {
        void *shared; /* NULL once closed */
        shmq_ring *ring;
        shmq_stream *stream;
    };
    const shmq_end_kind *kind;
    _Atomic uint64_t *role, *peer_role;
    shmq_cell *cell; /* where this end sleeps */
    uint64_t need;   /* free slots or bytes that a producer waits for */
    bool busy;
    shmq_wait_policy wait;
    int own_efd, peer_efd; /* duplicates, or -1 */
    Py_buffer memory;
    PyObject *view;  /* the memoryview that reserve or peek gave out, or a tuple of them, or NULL */
    PyObject *lease; /* their exporter */
    uint64_t leased; /* units behind it */
    shmq_message message;  /* a channel's reserved message */
    uint64_t *spans;       /* a channel's peeked messages: bytes up to the end of each, from head */
    Py_ssize_t spans_room; /* allocated */
    shmq_fifo_ahead ahead; /* what a stream's writer holds back */
    shmq_state *state;
};

#define SHMQ_END_READY(end) __builtin_expect((end)->pass == shmq_fork_generation, 1)

/* Around allocations that may run the garbage collector, hence foreign code: nobody moves the cursor meanwhile. */
void shmq_end_hold(shmq_end *self);
void shmq_end_unhold(shmq_end *self);

PyObject *shmq_end_refuse(shmq_end *self); /* says why the end is not ready; always NULL */
PyObject *shmq_end_corrupt(shmq_end *self);
PyObject *shmq_end_new(PyTypeObject *type, PyObject *args, PyObject *kwargs, const shmq_end_kind *kind);

/* Wait until kind->ready. 1: it is (or the peer's cursor is corrupt, which the next step reports), 0: timed out,
 * -1: exception set. */
int shmq_end_wait(shmq_end *self, int64_t timeout_ns);

/* With strategy eventfd: make the descriptor readable at the next change. True when the change has
 * happened already, so that the caller must try again. */
bool shmq_end_arm(shmq_end *self);

/* A memoryview of `bytes` bytes at `at`, which stand for `units` slots, bytes or messages. */
PyObject *shmq_end_lend(shmq_end *self, void *at, uint64_t bytes, uint64_t units);
/* The same in steps, for a list of views: the exporter, a view of it, and what becomes of them. */
PyObject *shmq_lease_new(shmq_end *self);
PyObject *shmq_lease_view(PyObject *lease, void *at, uint64_t bytes);
void shmq_end_lent(shmq_end *self, PyObject *lease, PyObject *view, uint64_t units);
/* Take it back; false (BufferError set) when something derived from it lives. */
bool shmq_end_take_back(shmq_end *self);
/* The argument of commit and release: 0..leased, or -1 with an exception set. */
int64_t shmq_end_count(shmq_end *self, PyObject *arg, const char *verb);

/* slots and methods both types use */
int shmq_end_traverse(shmq_end *self, visitproc visit, void *arg);
int shmq_end_clear(shmq_end *self);
void shmq_end_dealloc(shmq_end *self);
PyObject *shmq_end_close(shmq_end *self, PyObject *unused);
PyObject *shmq_end_enter(shmq_end *self, PyObject *unused);
PyObject *shmq_end_exit(shmq_end *self, PyObject *const *args, Py_ssize_t nargs);
PyObject *shmq_end_fileno(shmq_end *self, PyObject *unused);
PyObject *shmq_end_stats(shmq_end *self, PyObject *unused);
PyObject *shmq_end_get_capacity(shmq_end *self, void *unused);
PyObject *shmq_end_get_slot_size(shmq_end *self, void *unused);
PyObject *shmq_end_get_closed(shmq_end *self, void *unused);

/* ring.c: the kind of the ends of a ring, and its counters */
bool shmq_ring_end_find(shmq_end *self, void *at, uint64_t space);
int shmq_ring_end_bind(shmq_end *self, uint64_t space);
bool shmq_ring_end_ready(void *self);
PyObject *shmq_ring_end_stats(const shmq_end *self);
PyObject *shmq_ring_info(const shmq_ring *ring);

/* channel.c */
bool shmq_channel_end_find(shmq_end *self, void *at, uint64_t space);
int shmq_channel_end_bind(shmq_end *self, uint64_t space);
PyObject *shmq_channel_end_stats(const shmq_end *self);

/* stream.c */
bool shmq_stream_end_find(shmq_end *self, void *at, uint64_t space);
int shmq_stream_end_bind(shmq_end *self, uint64_t space);
bool shmq_stream_end_ready(void *self);
PyObject *shmq_stream_end_stats(const shmq_end *self);
PyObject *shmq_stream_end_get_capacity(shmq_end *self, void *unused);

/* A contiguous buffer whose length is a whole number of slots; false: error set. */
bool shmq_end_slots_buffer(shmq_end *self, PyObject *object, int flags, Py_buffer *buffer, uint64_t *slots);

/* The blocking calls: repeat `once` until it says something else than "full" (0) or "empty" (NULL without exception).
 * Inline, so that each type's `once` is compiled into its loop. */
static inline PyObject *shmq_end_push(shmq_end *self, PyObject *record, int64_t timeout_ns,
                                      int (*once)(shmq_end *, PyObject *))
{
    for (;;) {
        if (!SHMQ_END_READY(self))
            return shmq_end_refuse(self);
        int rc = once(self, record);
        if (rc < 0)
            return NULL;
        if (rc)
            Py_RETURN_NONE;
        if (!SHMQ_END_READY(self))
            return shmq_end_refuse(self);
        rc = shmq_end_wait(self, timeout_ns); /* once is enough: only this end makes room disappear */
        if (rc < 0)
            return NULL;
        if (rc == 0 && !shmq_end_arm(self)) {
            PyErr_SetNone(self->state->full);
            return NULL;
        }
    }
}

/* Also for what a producer does with a result. */
static inline PyObject *shmq_end_pop(shmq_end *self, int64_t timeout_ns, PyObject *(*once)(shmq_end *, void *),
                                     void *arg)
{
    for (;;) {
        PyObject *record = once(self, arg);
        if (record || PyErr_Occurred())
            return record;
        int rc = shmq_end_wait(self, timeout_ns); /* once is enough: only this end takes records out */
        if (rc < 0)
            return NULL;
        if (rc == 0 && !shmq_end_arm(self)) {
            PyErr_SetNone(self->kind->is_producer ? self->state->full : self->state->empty);
            return NULL;
        }
    }
}

#define SHMQ_END_METHODS                                                                                               \
    {"stats", (PyCFunction)shmq_end_stats, METH_NOARGS,                                                                \
     "stats() -> dict[str, int]\n\nCounters since it was made, read without stopping it."},                            \
    {"fileno", (PyCFunction)shmq_end_fileno, METH_NOARGS,                                                              \
     "fileno() -> int\n\nThe eventfd of an end with wait=\"eventfd\": readable when a try that failed is worth "       \
     "repeating."},                                                                                                    \
    {"close", (PyCFunction)shmq_end_close, METH_NOARGS,                                                                \
     "close()\n\nGive the role back. BufferError while a reserved or peeked view is used; a second call does "         \
     "nothing."},                                                                                                      \
    {"__enter__", (PyCFunction)shmq_end_enter, METH_NOARGS, NULL},                                                     \
    {"__exit__", (PyCFunction)(void (*)(void))shmq_end_exit, METH_FASTCALL, NULL},                                     \
    {NULL, NULL, 0, NULL}

#define SHMQ_END_GETSET                                                                                                \
    {"closed", (getter)shmq_end_get_closed, NULL, "True once closed.", NULL},                                          \
    {NULL, NULL, NULL, NULL, NULL}

#endif
