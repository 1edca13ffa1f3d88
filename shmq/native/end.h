/* end.h - what RingProducer and RingConsumer have in common: the role, the lease, waiting, closing.
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

#include "shmq/native/ring.h"

typedef struct {
    PyObject_HEAD
    uint32_t pass; /* equals shmq_fork_generation when calls may go on: open, not busy, nothing leased, not forked */
    uint32_t generation;
    union {
        shmq_producer producer;
        shmq_consumer consumer;
    };
    shmq_ring *ring; /* NULL once closed */
    bool is_producer, busy;
    shmq_wait_policy wait;
    int own_efd, peer_efd; /* duplicates, or -1 */
    Py_buffer memory;
    PyObject *view;  /* the memoryview that reserve or peek gave out, or NULL */
    PyObject *lease; /* its exporter */
    uint64_t leased; /* slots behind it */
    shmq_state *state;
} shmq_end;

#define SHMQ_END_READY(end) __builtin_expect((end)->pass == shmq_fork_generation, 1)

/* Around allocations that may run the garbage collector, hence foreign code: nobody moves the cursor meanwhile. */
void shmq_end_hold(shmq_end *self);
void shmq_end_unhold(shmq_end *self);

PyObject *shmq_end_refuse(shmq_end *self); /* says why the end is not ready; always NULL */
PyObject *shmq_end_corrupt(shmq_end *self);
PyObject *shmq_end_new(PyTypeObject *type, PyObject *args, PyObject *kwargs, bool is_producer);

/* Wait until a slot is free (producer) or filled (consumer). 1: yes (or the ring is corrupt, which the
 * next step reports), 0: timed out, -1: exception set. */
int shmq_end_wait(shmq_end *self, int64_t timeout_ns);

/* With strategy eventfd: make the descriptor readable at the next change. True when the change has
 * happened already, so that the caller must try again. */
bool shmq_end_arm(shmq_end *self);

/* A memoryview of `slots` slots at `at`. */
PyObject *shmq_end_lend(shmq_end *self, void *at, uint64_t slots);
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

/* A contiguous buffer whose length is a whole number of slots; false: error set. */
bool shmq_end_slots_buffer(shmq_end *self, PyObject *object, int flags, Py_buffer *buffer, uint64_t *slots);

#define SHMQ_END_METHODS                                                                                               \
    {"stats", (PyCFunction)shmq_end_stats, METH_NOARGS,                                                                \
     "stats() -> dict[str, int]\n\nCounters of the ring since it was made, read without stopping it."},               \
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
    {"capacity", (getter)shmq_end_get_capacity, NULL, "Slots in the ring.", NULL},                                     \
    {"slot_size", (getter)shmq_end_get_slot_size, NULL, "Bytes per slot.", NULL},                                      \
    {"closed", (getter)shmq_end_get_closed, NULL, "True once closed.", NULL},                                          \
    {NULL, NULL, NULL, NULL, NULL}

#endif
