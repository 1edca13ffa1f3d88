/* module.h - what the files of the extension module shmq._native share. */
#ifndef SHMQ_MODULE_H
#define SHMQ_MODULE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdbool.h>
#include <stdint.h>

/* Per-module state: the classes that are raised and made. */
typedef struct {
    PyObject *full, *empty; /* of the module queue */
    PyObject *role_taken, *peer_died, *corrupt, *owner_died;
    PyTypeObject *lease;
    PyObject *release; /* the name of a memoryview's method */
} shmq_state;

/* Signals are looked at, and a silent peer is looked for, at least this often during a blocking call. */
#define SHMQ_SLICE_NS (50 * 1000000)

/* Grows by one in every forked child: a handle that was made under another value is the parent's. */
extern uint32_t shmq_fork_generation;

/* module.c: seconds as int or float, None: for ever -> nanoseconds, INT64_MAX: for ever. False: error set. */
bool shmq_timeout(PyObject *seconds, int64_t *ns);
/* The only optional argument, `timeout`, of a METH_FASTCALL|METH_KEYWORDS method with `required` others. */
bool shmq_timeout_argument(const char *method, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames,
                           Py_ssize_t required, int64_t *ns);

/* layout.c */
PyObject *shmq_layout(PyObject *module, PyObject *unused);

/* mapping.c */
extern PyType_Spec shmq_mapping_spec;
PyObject *shmq_py_segment_init(PyObject *module, PyObject *args);
PyObject *shmq_py_segment_check(PyObject *module, PyObject *args);
PyObject *shmq_py_segment_header(PyObject *module, PyObject *arg);
PyObject *shmq_py_pidns(PyObject *module, PyObject *unused);
PyObject *shmq_py_self_token(PyObject *module, PyObject *unused);
PyObject *shmq_py_token_alive(PyObject *module, PyObject *arg);

/* end.c, ring.c, producer.c, consumer.c */
extern PyType_Spec shmq_lease_spec, shmq_producer_spec, shmq_consumer_spec;
PyObject *shmq_py_ring_bytes(PyObject *module, PyObject *args);
PyObject *shmq_py_ring_init(PyObject *module, PyObject *args);
PyObject *shmq_py_ring_info(PyObject *module, PyObject *args);

/* aio.c: methods of every producing (apush) and consuming (apop) end, and of those of byte fifos */
PyObject *shmq_end_apop(PyObject *end, PyObject *unused);
PyObject *shmq_end_apush(PyObject *end, PyObject *record);
PyObject *shmq_end_aread(PyObject *end, PyObject *n);
PyObject *shmq_end_awrite(PyObject *end, PyObject *data);
#define SHMQ_APOP_METHOD                                                                                               \
    {"apop", shmq_end_apop, METH_NOARGS,                                                                               \
     "await apop()\n\nTake the oldest one out when there is one; for asyncio, with wait=\"eventfd\". A cancelled call "  \
     "has taken nothing. PeerDied when it is empty and the producer is dead, RuntimeError when another task waits."}
#define SHMQ_APUSH_METHOD                                                                                              \
    {"apush", shmq_end_apush, METH_O,                                                                                  \
     "await apush(record)\n\nCopy one in when there is room; for asyncio, with wait=\"eventfd\". A cancelled call has "   \
     "copied nothing. PeerDied when it is full and the consumer is dead, RuntimeError when another task waits."}

/* channel.c, channel_producer.c, channel_consumer.c */
extern PyType_Spec shmq_channel_producer_spec, shmq_channel_consumer_spec;
PyObject *shmq_py_channel_bytes(PyObject *module, PyObject *arg);
PyObject *shmq_py_channel_init(PyObject *module, PyObject *args);
PyObject *shmq_py_channel_info(PyObject *module, PyObject *args);

/* pyqueue.c */
extern PyType_Spec shmq_queue_spec;
PyObject *shmq_py_queue_bytes(PyObject *module, PyObject *arg);
PyObject *shmq_py_queue_init(PyObject *module, PyObject *args);

/* stream.c, fifo_writer.c, fifo_reader.c */
extern PyType_Spec shmq_fifo_writer_spec, shmq_fifo_reader_spec;
PyObject *shmq_py_stream_bytes(PyObject *module, PyObject *arg);
PyObject *shmq_py_stream_init(PyObject *module, PyObject *args);
PyObject *shmq_py_stream_info(PyObject *module, PyObject *args);

/* pyevent.c */
extern PyType_Spec shmq_event_spec;

/* pylock.c */
extern PyType_Spec shmq_spinlock_spec, shmq_mutex_spec, shmq_rwlock_spec, shmq_prwlock_spec;

#endif
